// The table of clips: one row each, sorted by a column's heading, opened by its key.

const clipTable = (data, source, { sorted, moved, sizeOfPage }) => {
  // Narrow windows lay rows out as cards, by which elements of a table lose their roles: so each has its own.
  const cell = (attributes, ...children) => make("td", { role: "cell", ...attributes }, ...children);
  const body = make("tbody", { role: "rowgroup" }), head = make("tr", { role: "row" });
  const back = make("button", { type: "button" }, "Previous"), next = make("button", { type: "button" }, "Next");
  const counted = make("output", { class: "count", "aria-live": "polite" });
  const hasMedia = source.hasMedia;
  const hasLabels = data.labels.length > 0;
  const columns = [
    { name: "Clip", sort: "key" }, { name: "Status", sort: "status" },
    ...(hasLabels ? [{ name: "Labels", sort: "labels" }] : []), { name: "Split", sort: "split" },
    ...(data.flags.length ? [{ name: "Flags", sort: "flags" }] : []),
    ...data.columns.map(({ title, unit }, place) => ({ name: unit ? `${title} (${unit})` : title, sort: place, number: true })),
  ];
  let by = "status", descending = false, page = 0, pages = 1;

  if (hasMedia) head.append(make("th", { scope: "col", role: "columnheader", class: "thumbs" }, "Frame and log-mel"));
  for (const column of columns) {
    const button = make("button", { type: "button", class: "sort" }, column.name);
    column.head = make("th", { scope: "col", role: "columnheader", ...(column.number ? { class: "n" } : {}) }, button);
    head.append(column.head);
    button.addEventListener("click", () => {
      descending = by === column.sort ? !descending : false;
      by = column.sort;
      mark();
      sorted();
    });
  }
  const mark = () => columns.forEach((column) =>
    column.head.setAttribute("aria-sort", column.sort === by ? (descending ? "descending" : "ascending") : "none"));

  let opening = 0;
  const open = async (row, line, button, plays) => {
    const next = line.nextElementSibling;
    if (next && next.classList.contains("opened")) {
      next.remove();
      button.setAttribute("aria-expanded", "false");
      return;
    }
    button.setAttribute("aria-expanded", "true");
    const whole = cell({ colspan: head.children.length });
    line.after(make("tr", { class: "opened", role: "row", id: `clip-${row.id}` }, whole));
    const turn = ++opening;
    whole.append(await cardOf(data, source, row));
    const audio = whole.querySelector("audio");
    if (plays && audio && turn === opening) audio.play().catch(() => {});
  };

  const lineOf = (row) => {
    const [status, , meaning] = data.statuses[row.status];
    const button = make("button", { type: "button", class: "open mono", "aria-expanded": "false", "aria-controls": `clip-${row.id}` }, row.key);
    const line = make("tr", { role: "row", ...(row.status === data.ok ? {} : { class: "failed" }) });
    if (hasMedia) {
      const pictures = cell({ class: "thumbs" });
      source.thumbnails(row.id).forEach((image, which) => {
        if (!image) return;
        const size = which ? { width: 96, height: 32 } : { width: 96 };
        const picture = make("img", { src: image, alt: `${which ? "log-mel" : "frame"} of ${row.key}`, loading: "lazy", ...size });
        picture.addEventListener("error", () => picture.replaceWith(make("p", { class: "bad" }, "cannot be read")));
        pictures.append(picture);
      });
      pictures.addEventListener("click", () => open(row, line, button, true));
      line.append(pictures);
    }
    const name = cell({ class: "key" }, button);
    if (row.video && row.video !== row.key) name.append(make("div", { class: "soft" }, row.video));
    const outcome = cell({ class: "reason" });
    if (row.status === data.ok) outcome.append(status);
    else outcome.append(make("b", { class: "bad", title: meaning }, status), make("div", { class: "soft" }, row.reason));
    line.append(name, outcome);
    if (hasLabels) line.append(cell({}, row.labels.join(", ")));
    line.append(cell({}, data.splits[row.split][0]));
    if (data.flags.length) {
      line.append(cell({}, ...row.flags.map((flag) => make("span", { class: "chip flag", title: data.flags[flag][2] }, data.flags[flag][0]))));
    }
    data.columns.forEach(({ title, unit }, place) => {
      const value = row.numbers[place], none = value === null || value === undefined;
      line.append(cell({ class: "n", "data-name": title, "data-unit": unit }, ...(none ? [] : [shownNumber(value)])));
    });
    button.addEventListener("click", () => open(row, line, button, false));
    return line;
  };

  const turn = (step) => {
    page += step;
    moved();
  };
  back.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));
  mark();

  return {
    element: make("div", {}, make("div", { class: "card wide scroll", role: "region", tabindex: 0, "aria-label": "Table of clips" },
      make("table", { class: "clips", role: "table", "aria-label": "Clips" }, make("thead", { role: "rowgroup" }, head), body)),
      make("div", { class: "controls pager" }, counted, back, next)),
    order: () => ({ sort: by, descending, offset: page * sizeOfPage, limit: sizeOfPage }),
    first: () => { page = 0; },
    reset: () => {
      [by, descending, page] = ["status", false, 0];
      mark();
    },
    show: ({ rows, total }) => {
      pages = Math.max(1, Math.ceil(total / sizeOfPage));
      back.disabled = page === 0;
      next.disabled = page >= pages - 1;
      const from = total ? page * sizeOfPage + 1 : 0, to = Math.min(total, (page + 1) * sizeOfPage);
      counted.textContent = `${count(from)}–${count(to)} of ${count(total)} ${total === 1 ? "clip" : "clips"}`;
      body.replaceChildren(...rows.map(lineOf));
    },
  };
};

const cardOf = async (data, source, row) => {
  try {
    const one = row.status === data.ok && source.hasMedia ? await source.sample(row.id) : { missing: "This page is of a manifest, which has no frames and no sound. Inspect the folder of its dataset." };
    return sampleCard(data, row, one, source.thumbnails(row.id));
  } catch (error) {
    return sampleCard(data, row, { problem: error.message }, ["", ""]);
  }
};
