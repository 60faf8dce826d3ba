"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";

  // Everything from the dataset enters the page as text or as an attribute of a fixed name: never as markup.
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const draw = (tag, attributes = {}, ...children) => {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };

  const pager = (place, draw) => {
    const back = make("button", { type: "button" }, "Previous");
    const next = make("button", { type: "button" }, "Next");
    const count = make("span", { class: "count" });
    let page = 0, pages = 1;
    const show = (wanted, total, size, what) => {
      pages = Math.max(1, Math.ceil(total / size));
      page = Math.min(Math.max(wanted, 0), pages - 1);
      back.disabled = page === 0;
      next.disabled = page === pages - 1;
      const first = total ? page * size + 1 : 0, last = Math.min(total, (page + 1) * size);
      count.textContent = `${first.toLocaleString("en")}–${last.toLocaleString("en")} of ${total.toLocaleString("en")} ${what}`;
      return page;
    };
    back.addEventListener("click", () => draw(page - 1));
    next.addEventListener("click", () => draw(page + 1));
    place.append(count, back, next);
    return show;
  };

  const failures = (root, rows) => {
    const SIZE = 100;
    const text = root.querySelector("input"), [status, split] = root.querySelectorAll("select");
    const body = root.querySelector("tbody");
    // One lower-case line a row, made once: a keystroke then is one pass over plain strings.
    const lines = rows.map((row) => row.join("\u0001").toLowerCase());
    let found = rows.map((_, place) => place);
    const show = pager(root.querySelector(".controls"), (page) => fill(page));
    const fill = (wanted) => {
      const page = show(wanted, found.length, SIZE, "failures");
      body.replaceChildren(...found.slice(page * SIZE, (page + 1) * SIZE).map((place) => {
        const [key, own, name, reason, video, source] = rows[place];
        return make("tr", {},
          make("td", { class: "key" }, key), make("td", {}, own), make("td", {}, name),
          make("td", { class: "reason" }, reason), make("td", { class: "key" }, video, source ? make("div", { class: "soft" }, source) : ""));
      }));
    };
    const filter = () => {
      const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
      found = [];
      for (let place = 0; place < rows.length; place++) {
        if (status.value && rows[place][2] !== status.value) continue;
        if (split.value && rows[place][1] !== split.value) continue;
        if (words.every((word) => lines[place].includes(word))) found.push(place);
      }
      fill(0);
    };
    text.addEventListener("input", filter);
    status.addEventListener("change", filter);
    split.addEventListener("change", filter);
    fill(0);
  };

  const frame = (one) => {
    const { width, height } = one;
    const view = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": one.caption });
    view.append(draw("image", { href: one.image, width, height }));
    if (one.mask) view.append(draw("image", { class: "truth", href: one.mask, width, height, preserveAspectRatio: "none" }));
    for (const box of one.boxes) {
      view.append(draw("rect", {
        class: box.sounding ? "box truth" : "box quiet truth", stroke: box.color,
        x: box.x0 * width, y: box.y0 * height, width: (box.x1 - box.x0) * width, height: (box.y1 - box.y0) * height,
      }, draw("title", {}, box.label)));
    }
    return make("figure", {}, view, make("figcaption", {}, one.caption));
  };

  const spectrogram = (mel, audio) => {
    const LEFT = 46, TOP = 6, BOTTOM = 30, WIDTH = 1000, HEIGHT = 240;
    const wide = WIDTH - LEFT - 4, high = HEIGHT - TOP - BOTTOM;
    const view = draw("svg", { class: "mel", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": "log-mel" });
    // Text must not be stretched with the picture, so it is laid out again for each width.
    const lay = () => {
      const width = Math.max(view.clientWidth, 240), inner = width - LEFT - 4;
      view.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
      view.replaceChildren(draw("image", { href: mel.image, x: LEFT, y: TOP, width: inner, height: high, preserveAspectRatio: "none" }));
      for (const [at, name] of mel.bands) {
        const y = TOP + high * (1 - at);
        view.append(draw("line", { class: "axis", x1: LEFT - 4, x2: LEFT, y1: y, y2: y }),
          draw("text", { x: LEFT - 7, y: y + 3.5, "text-anchor": "end" }, name));
      }
      for (const [at, name] of mel.times) {
        const x = LEFT + inner * at;
        view.append(draw("line", { class: "axis", x1: x, x2: x, y1: TOP + high, y2: TOP + high + 4 }),
          draw("text", { x, y: TOP + high + 15, "text-anchor": "middle" }, name));
      }
      view.append(draw("text", { x: LEFT + inner / 2, y: HEIGHT - 2, "text-anchor": "middle" }, mel.time_axis),
        draw("text", { x: -TOP - high / 2, y: 9, "text-anchor": "middle", transform: "rotate(-90)" }, mel.band_axis));
      for (const at of mel.frames) {
        const x = LEFT + inner * at;
        view.append(draw("line", { class: "framed", x1: x, x2: x, y1: TOP, y2: TOP + high }));
      }
      if (!audio || !mel.seconds) return;
      const head = draw("line", { class: "head", x1: LEFT, x2: LEFT, y1: TOP, y2: TOP + high });
      view.append(head);
      const move = () => {
        const x = LEFT + inner * Math.min(audio.currentTime / mel.seconds, 1);
        head.setAttribute("x1", x);
        head.setAttribute("x2", x);
        if (!audio.paused && view.isConnected) requestAnimationFrame(move);
      };
      audio.onplay = audio.onseeked = move;
      view.onclick = (event) => {
        const at = (event.clientX - view.getBoundingClientRect().left - LEFT) / inner;
        if (at >= 0 && at <= 1) audio.currentTime = at * mel.seconds;
      };
    };
    new ResizeObserver(lay).observe(view);
    return view;
  };

  const sample = (one) => {
    const card = make("article", { class: "sample" }, make("h3", { class: "mono" }, one.key));
    const chips = make("div", {}, make("span", { class: "chip" }, one.split));
    for (const label of one.labels) chips.append(make("span", { class: "chip" }, label));
    for (const flag of one.flags) chips.append(make("span", { class: "chip flag" }, flag));
    card.append(chips, make("p", { class: "facts" }, one.facts));
    if (one.problem) {
      card.append(make("p", { class: "bad" }, one.problem));
      return card;
    }
    card.append(make("div", { class: "frames" }, ...one.frames.map(frame)));
    const audio = one.sound ? make("audio", { controls: "", preload: "metadata", src: one.sound }) : null;
    if (one.mel) card.append(spectrogram(one.mel, audio));
    if (audio) card.append(audio);
    return card;
  };

  const samples = (root, all) => {
    const SIZE = 4;
    const place = root.querySelector(".samples"), truth = root.querySelector("input[type=checkbox]");
    const chosen = root.querySelector("select");
    let found = all;
    const show = pager(root.querySelector(".controls"), (page) => fill(page, true));
    const fill = (wanted, scroll) => {
      const page = show(wanted, found.length, SIZE, "samples");
      place.replaceChildren(...found.slice(page * SIZE, (page + 1) * SIZE).map(sample));
      if (scroll) root.scrollIntoView();
    };
    truth.addEventListener("change", () => place.classList.toggle("bare", !truth.checked));
    chosen.addEventListener("change", () => {
      found = chosen.value ? all.filter((one) => one.split === chosen.value || one.flags.includes(chosen.value)) : all;
      fill(0, false);
    });
    fill(0, false);
  };

  if (data.failures && data.failures.length) failures(document.getElementById("failures"), data.failures);
  if (data.samples && data.samples.length) samples(document.getElementById("samples"), data.samples);
  document.documentElement.dataset.ready = "yes";
})();
