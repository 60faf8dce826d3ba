// A histogram for each measured column, with a brush: drag over the bars, or move the two sliders below them by keys.

const histograms = (data, changed) => {
  const WIDTH = 240, HEIGHT = 64;
  const step = WIDTH / data.bars;
  const brushes = data.columns.map(() => [0, data.bars - 1]);
  const whole = ([first, last]) => first === 0 && last === data.bars - 1;

  const one = ({ title, unit, low, high, counts }, column) => {
    const edge = (bar) => (bar === data.bars ? high : low + ((high - low) * bar) / data.bars); // the last one exactly
    const most = Math.max(...counts, 1);
    const heights = (values) => values.map((value) => (value ? Math.max((HEIGHT * value) / most, 1.5) : 0));
    const bar = (kind, place, height) => draw("rect", { class: kind, x: place * step + 0.5, width: step - 1, y: HEIGHT - height, height });
    const pale = heights(counts).map((height, place) => bar("lost", place, height));
    const solid = heights(counts).map((height, place) => bar("bar", place, height));
    const shade = draw("rect", { class: "brush", y: 0, height: HEIGHT, x: 0, width: 0 });
    const view = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `histogram of ${title}` }, shade, ...pale, ...solid);
    const slider = (name, value) => make("input", { type: "range", min: 0, max: data.bars - 1, step: 1, value, "aria-label": `${title}, ${name}` });
    const from = slider("from", 0), to = slider("to", data.bars - 1);
    const said = make("output", { class: "soft" });
    const clear = make("button", { type: "button", class: "small", "aria-label": `all values of ${title}` }, "all");

    const show = () => {
      const [first, last] = brushes[column];
      from.value = first;
      to.value = last;
      from.setAttribute("aria-valuetext", first ? `from ${withUnit(edge(first), unit)}` : "from the lowest");
      to.setAttribute("aria-valuetext", last < data.bars - 1 ? `to ${withUnit(edge(last + 1), unit)}` : "to the highest");
      said.textContent = low === high ? `all ${withUnit(low, unit)}` : `${shownNumber(edge(first))} – ${withUnit(edge(last + 1), unit)}`;
      clear.hidden = whole(brushes[column]);
      shade.setAttribute("x", first * step);
      shade.setAttribute("width", clear.hidden ? 0 : (last - first + 1) * step);
    };
    const brush = (first, last) => {
      brushes[column] = [Math.min(first, last), Math.max(first, last)];
      show();
      changed();
    };
    from.addEventListener("input", () => brush(Number(from.value), Math.max(Number(from.value), brushes[column][1])));
    to.addEventListener("input", () => brush(Math.min(Number(to.value), brushes[column][0]), Number(to.value)));
    clear.addEventListener("click", () => {
      brush(0, data.bars - 1);
      from.focus();
    });
    const barAt = (event) => {
      const box = view.getBoundingClientRect();
      return Math.min(Math.max(Math.floor(((event.clientX - box.left) / box.width) * data.bars), 0), data.bars - 1);
    };
    let anchor = null;
    view.addEventListener("pointerdown", (event) => {
      anchor = barAt(event);
      view.setPointerCapture(event.pointerId);
      brush(anchor, anchor);
    });
    view.addEventListener("pointermove", (event) => anchor !== null && brush(anchor, barAt(event)));
    for (const end of ["pointerup", "pointercancel"]) view.addEventListener(end, () => { anchor = null; });
    show();
    return {
      element: make("fieldset", { class: "histogram" }, make("legend", {}, unit ? `${title} (${unit})` : title), view,
        make("div", { class: "sliders" }, from, to), make("div", { class: "said" }, said, clear)),
      update: (values) => heights(values).forEach((height, place) => {
        solid[place].setAttribute("y", HEIGHT - height);
        solid[place].setAttribute("height", height);
      }),
      reset: () => {
        brushes[column] = [0, data.bars - 1];
        show();
      },
    };
  };

  const all = data.columns.map(one);
  return {
    element: make("div", { class: "histograms" }, ...all.map((each) => each.element)),
    bins: () => brushes.flatMap((brush, column) => (whole(brush) ? [] : [[column, ...brush]])),
    update: (counts) => all.forEach((each, column) => each.update(counts[column])),
    reset: () => all.forEach((each) => each.reset()),
  };
};
