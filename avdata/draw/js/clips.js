// Clips to search, filter, brush, sort and open: in the page, or asked of a server.

const explorer = (root, data) => {
  const SIZE = 50, PAUSE_MS = 120;
  const source = data.served ? remoteSource(data) : localSource(data);
  source.hasMedia = data.media;

  const named = (entries) => entries.map(([name, number], place) => [`${name} (${count(number)})`, place]);
  const text = make("input", { type: "search", placeholder: "key, video, label, reason, source" });
  const failed = data.ok === null ? data.total : data.total - data.statuses[data.ok][1];
  const mixed = failed && failed < data.total ? [[`every status but ok (${count(failed)})`, FAILED]] : [];
  const status = chooser("Status", [["every status", null], ...mixed, ...named(data.statuses)]);
  const split = chooser("Split", [["every split", null], ...named(data.splits)]);
  const flag = chooser("Flag", [["any", null], ...named(data.flags)]);
  const label = chooser("Label", [["every label", null], ...named(data.labels)]);
  const reset = make("button", { type: "button" }, "Reset");
  const truth = make("input", { type: "checkbox", checked: "" });
  const problem = make("p", { class: "bad", role: "alert", hidden: "" });
  const opened = make("div", { class: "samples" });
  const controls = make("div", { class: "controls filters", role: "search", "aria-label": "Filter clips" }, labelled("Search", text), status.element);
  if (data.splits.length > 1) controls.append(split.element);
  if (data.labels.length) controls.append(label.element);
  if (data.flags.length) controls.append(flag.element);
  controls.append(reset);
  if (data.other_labels) label.element.append(make("small", {}, `${count(data.other_labels)} rarer ones: by search`));
  if (data.truth) controls.append(make("label", {}, truth, "boxes and masks"));

  let number = 0, timer = 0;
  const ask = async () => {
    clearTimeout(timer);
    const mine = ++number;
    const query = {
      text: text.value, status: status.value(), split: split.value(), flag: flag.value(), label: label.value(),
      bins: brushes.bins(), area: map ? map.area() : null, ...table.order(),
    };
    try {
      const found = await source.query(query);
      if (mine !== number) return; // a later question was asked
      table.show(found);
      brushes.update(found.counts);
      if (map) map.update(found.mapped);
      problem.hidden = true;
    } catch (error) {
      problem.textContent = `No answer: ${error.message}. Is avkit inspect --serve still running?`;
      problem.hidden = false;
    }
    root.dataset.answered = mine;
  };
  const anew = () => {
    table.first();
    ask();
  };
  const soon = () => {
    number++; // what is under way is of no use
    clearTimeout(timer);
    timer = setTimeout(anew, data.served ? PAUSE_MS : 0);
  };

  const brushes = histograms(data, soon);
  const table = clipTable(data, source, { sorted: anew, moved: ask, sizeOfPage: SIZE });
  const map = data.maps ? featureMap(data, source, {
    changed: soon,
    opened: async (id) => {
      opened.replaceChildren(await cardOf(data, source, await source.row(id)));
      const audio = opened.querySelector("audio");
      if (audio) audio.play().catch(() => {}); // where the browser wants a click first, its button is there
    },
  }) : null;

  text.addEventListener("input", soon);
  for (const one of [status, split, flag, label]) one.select.addEventListener("change", anew);
  truth.addEventListener("change", () => root.classList.toggle("bare", !truth.checked));
  reset.addEventListener("click", () => {
    text.value = "";
    for (const one of [status, split, flag, label]) one.select.value = "";
    brushes.reset();
    if (map) map.reset();
    table.reset();
    ask();
  });

  root.append(controls);
  if (data.columns.length) root.append(make("details", { ...(innerWidth > 640 ? { open: "" } : {}), class: "card wide", "aria-label": "Measured columns" }, make("summary", {}, "Measured columns"), brushes.element));
  if (map) root.append(map.element, opened);
  root.append(problem, table.element);
  return ask();
};
