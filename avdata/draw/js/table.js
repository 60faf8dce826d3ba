// The table of clips: one row each, sorted by a column's heading, opened by its key.

const clipTable = (data, source, { sorted, moved, sizeOfPage }) => {
  const body = make("tbody"), head = make("tr");
  const back = make("button", { type: "button" }, "Previous"), next = make("button", { type: "button" }, "Next");
  const counted = make("output", { class: "count", "aria-live": "polite" });
  const hasMedia = source.hasMedia;
  const columns = [
    { name: "Clip", sort: "key" }, { name: "Labels", sort: "labels" }, { name: "Split", sort: "split" },
    { name: "Status", sort: "status" },
    ...(data.flags.length ? [{ name: "Flags", sort: "flags" }] : []),
    ...data.columns.map(({ title, unit }, place) => ({ name: unit ? `${title} (${unit})` : title, sort: place, number: true })),
  ];
  let by = "status", descending = false, page = 0, pages = 1;

  if (hasMedia) head.append(make("th", { scope: "col", class: "thumbs" }, "Frame and log-mel"));
  for (const column of columns) {
    const button = make("button", { type: "button", class: "sort" }, column.name);
    column.head = make("th", { scope: "col", ...(column.number ? { class: "n" } : {}) }, button);
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
    const cell = make("td", { colspan: head.children.length }), opened = make("tr", { class: "opened", id: `clip-${row.id}` }, cell);
    line.after(opened);
    const turn = ++opening;
    cell.append(await cardOf(data, source, row));
    const audio = cell.querySelector("audio");
    if (plays && audio && turn === opening) audio.play().catch(() => {});
  };

  const lineOf = (row) => {
    const [status, , meaning] = data.statuses[row.status];
    const button = make("button", { type: "button", class: "open mono", "aria-expanded": "false", "aria-controls": `clip-${row.id}` }, row.key);
    const line = make("tr", row.status === data.ok ? {} : { class: "failed" });
    if (hasMedia) {
      const pictures = make("td", { class: "thumbs" });
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
    const name = make("td", { class: "key" }, button);
    if (row.video && row.video !== row.key) name.append(make("div", { class: "soft" }, row.video));
    const outcome = make("td", { class: "reason" });
    if (row.status === data.ok) outcome.append(status);
    else outcome.append(make("b", { class: "bad", title: meaning }, status), make("div", { class: "soft" }, row.reason));
    line.append(name, make("td", {}, row.labels.join(", ")), make("td", {}, data.splits[row.split][0]), outcome);
    if (data.flags.length) {
      line.append(make("td", {}, ...row.flags.map((flag) => make("span", { class: "chip flag", title: data.flags[flag][2] }, data.flags[flag][0]))));
    }
    data.columns.forEach((_, place) => line.append(make("td", { class: "n" }, shownNumber(row.numbers[place]))));
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
      make("table", { class: "clips", "aria-label": "Clips" }, make("thead", {}, head), body)),
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
    const one = row.status === data.ok && source.hasMedia ? await source.sample(row.id) : { missing: "A manifest alone has no samples." };
    return sampleCard(data, row, one, source.thumbnails(row.id));
  } catch (error) {
    return sampleCard(data, row, { problem: error.message }, ["", ""]);
  }
};
