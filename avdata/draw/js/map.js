// A map of features: a point a sample. The pointer or the arrow keys go to a point, whose frame and spectrogram are
// shown; a click or Enter opens and plays it; a drag, or Space, chooses the points within a rectangle.

const featureMap = (data, source, { changed, opened }) => {
  const { rows: ids, streams, said } = data.maps;
  const MARGIN = 14, REACH = 16, COLORS = 7, AROUND = 0.1;
  let stream = 0, met = null, current = null, area = null, drag = null, shownId = null;
  const groups = new Map(); // row -> color, by the choice below
  const names = [];

  const canvas = make("canvas", {
    tabindex: 0, role: "application", "aria-roledescription": "map of features", "aria-describedby": "map-help",
    "aria-label": "Map of features",
  });
  const tip = make("div", { class: "tip", hidden: "" });
  const live = make("p", { class: "unseen", "aria-live": "polite" });
  const help = make("p", { class: "soft", id: "map-help" },
    `${said} Arrow keys go from point to point, Enter opens and plays one, Space chooses the points around it, Escape lets go. Drag to choose an area.`);
  const which = chooser("Stream", streams.map(([name], place) => [name, place]));
  const clear = make("button", { type: "button", class: "small", hidden: "" }, "whole map");
  const legend = make("ul", { class: "legend" });
  const place = make("div", { class: "map" }, canvas, tip);

  const size = () => ({ width: canvas.clientWidth, height: canvas.clientHeight });
  const at = (point) => {
    const [x, y] = streams[stream][1][point], { width, height } = size();
    return [MARGIN + x * (width - 2 * MARGIN), MARGIN + y * (height - 2 * MARGIN)];
  };
  const back = (x, y) => {
    const { width, height } = size(), inside = (value) => Math.min(Math.max(value, 0), 1);
    return [inside((x - MARGIN) / (width - 2 * MARGIN)), inside((y - MARGIN) / (height - 2 * MARGIN))];
  };

  const paint = () => {
    const { width, height } = size(), ratio = window.devicePixelRatio || 1;
    if (!width) return;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const style = getComputedStyle(document.documentElement), color = (name) => style.getPropertyValue(name);
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const dot = (point, radius) => {
      const [x, y] = at(point);
      pen.beginPath();
      pen.arc(x, y, radius, 0, 2 * Math.PI);
    };
    const isMet = (point) => !met || met[point] === "1";
    for (const wanted of [false, true]) {
      pen.globalAlpha = wanted ? 0.85 : 0.18;
      ids.forEach((id, point) => {
        if (isMet(point) !== wanted) return;
        pen.fillStyle = color(`--s${groups.has(id) ? groups.get(id) : COLORS}`);
        dot(point, 3.4);
        pen.fill();
      });
    }
    pen.globalAlpha = 1;
    pen.strokeStyle = color("--ink");
    pen.lineWidth = 1.5;
    if (current !== null) {
      dot(current, 6.5);
      pen.stroke();
    }
    const box = drag ? [...drag.from, ...drag.to] : area && [...area];
    if (box) {
      const { width: w, height: h } = size();
      const [x0, y0, x1, y1] = box.map((value, place) => MARGIN + value * ((place % 2 ? h : w) - 2 * MARGIN));
      pen.setLineDash([4, 3]);
      pen.strokeRect(Math.min(x0, x1), Math.min(y0, y1), Math.abs(x1 - x0), Math.abs(y1 - y0));
    }
  };

  const nearest = (x, y, reach) => {
    let best = null, least = reach * reach;
    ids.forEach((_, point) => {
      const [px, py] = at(point), distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < least) [best, least] = [point, distance];
    });
    return best;
  };

  // The nearest point that lies within 45 degrees of a direction.
  const towards = (point, dx, dy) => {
    const [x, y] = at(point);
    let best = point, least = Infinity;
    ids.forEach((_, other) => {
      const [px, py] = at(other), along = (px - x) * dx + (py - y) * dy, across = Math.abs((px - x) * dy) + Math.abs((py - y) * dx);
      if (other !== point && along > 0.5 && across <= along && along + 2 * across < least) [best, least] = [other, along + 2 * across];
    });
    return best;
  };

  const show = async (point, isSaid) => {
    current = point;
    shownId = point === null ? null : ids[point];
    paint();
    tip.hidden = point === null;
    if (point === null) return;
    const id = ids[point], row = await source.row(id);
    if (shownId !== id) return;
    const text = [row.key, row.labels.join(", ")].filter(Boolean).join(": ");
    tip.replaceChildren(...source.thumbnails(id).filter(Boolean).map((image, which) =>
      make("img", { src: image, alt: which ? "log-mel" : "frame" })), make("p", {}, text));
    const [x, y] = at(point), { width, height } = size();
    tip.style.setProperty("--x", `${Math.min(Math.max(x, 76), width - 76)}px`);
    tip.style.setProperty("--y", `${y}px`);
    tip.classList.toggle("below", y < height / 2);
    if (isSaid) live.textContent = text;
  };

  const open = (point) => opened(ids[point]);
  const position = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const setArea = (value) => {
    area = value;
    clear.hidden = !area;
    paint();
    changed();
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    const from = back(...position(event));
    drag = { from, to: from, start: position(event), moved: false };
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = position(event);
    if (!drag) {
      const point = nearest(x, y, REACH);
      if (point !== current) show(point, false);
      return;
    }
    drag.to = back(x, y);
    drag.moved ||= Math.hypot(x - drag.start[0], y - drag.start[1]) > 5;
    if (drag.moved) paint();
  });
  canvas.addEventListener("pointerup", (event) => {
    const ended = drag;
    drag = null;
    if (!ended) return;
    if (ended.moved) {
      const [[x0, y0], [x1, y1]] = [ended.from, ended.to];
      setArea([Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)]);
      return;
    }
    const point = nearest(...position(event), REACH);
    show(point, true);
    if (point !== null) open(point);
  });
  canvas.addEventListener("pointercancel", () => { drag = null; });
  canvas.addEventListener("pointerleave", () => { if (!drag && document.activeElement !== canvas) show(null, false); });
  canvas.addEventListener("blur", () => show(null, false));
  const WAYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    if (Object.hasOwn(WAYS, event.key)) {
      event.preventDefault();
      const { width, height } = size();
      show(current === null ? nearest(width / 2, height / 2, Infinity) : towards(current, ...WAYS[event.key]), true);
    } else if (event.key === "Enter" && current !== null) {
      event.preventDefault();
      open(current);
    } else if (event.key === " " && current !== null) {
      event.preventDefault();
      const [x, y] = streams[stream][1][current];
      setArea([x - AROUND, y - AROUND, x + AROUND, y + AROUND]);
    } else if (event.key === "Escape") {
      show(null, false);
      if (area) setArea(null);
    }
  });
  clear.addEventListener("click", () => {
    setArea(null);
    canvas.focus();
  });
  which.select.addEventListener("change", () => {
    stream = which.value() || 0;
    show(null, false);
    if (area) setArea(null);
    paint();
  });

  // The most frequent labels have colors of their own.
  const colored = (labelOf) => {
    const counts = new Map();
    for (const label of labelOf.values()) counts.set(label, (counts.get(label) || 0) + 1);
    const most = [...counts].sort((a, b) => b[1] - a[1]).slice(0, COLORS).map(([label]) => label);
    for (const [id, label] of labelOf) if (most.includes(label)) groups.set(id, most.indexOf(label));
    names.push(...most);
    legend.replaceChildren(...most.map((label, color) => make("li", {}, make("i", { class: `s${color}` }), label)));
    if (counts.size > most.length) legend.append(make("li", {}, make("i", { class: `s${COLORS}` }), `${counts.size - most.length} others`));
    paint();
  };

  new ResizeObserver(paint).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  colored(new Map(ids.map((id, point) => [id, data.maps.labels[point]])));
  const controls = make("div", { class: "controls" });
  if (streams.length > 1) controls.append(which.element);
  controls.append(clear);
  return {
    element: make("div", { class: "card wide" }, make("h3", {}, "Map of features"), controls, place, legend, help, live),
    area: () => area && [stream, ...area],
    update: (mapped) => {
      met = mapped.includes("0") ? mapped : null;
      paint();
    },
    reset: () => {
      area = null;
      clear.hidden = true;
      paint();
    },
  };
};
