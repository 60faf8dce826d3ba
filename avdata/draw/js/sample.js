// One clip: its frames with boxes and masks, spectrogram and sound.

const frame = (one) => {
  const { width, height } = one;
  const view = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `frame at ${one.caption}` });
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
  const LEFT = 46, TOP = 6, BOTTOM = 30, HEIGHT = 240;
  const high = HEIGHT - TOP - BOTTOM;
  const view = draw("svg", { class: "mel", preserveAspectRatio: "none", role: "img", "aria-label": "log-mel spectrogram" });
  // Text must not be stretched with the picture, so it is laid out again for each width.
  const lay = () => {
    const width = Math.max(view.clientWidth, 240), inner = width - LEFT - 12;
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
      if (!audio.paused && head.isConnected) requestAnimationFrame(move);
    };
    audio.onplay = audio.onseeked = audio.onpause = move;
    move(); // it may play already
    view.onclick = (event) => {
      const at = (event.clientX - view.getBoundingClientRect().left - LEFT) / inner;
      if (at >= 0 && at <= 1) audio.currentTime = at * mel.seconds;
    };
  };
  new ResizeObserver(lay).observe(view);
  return view;
};

// Large thumbnails, where the page does not hold the frames themselves.
const preview = ([frameImage, melImage]) => {
  const place = make("div", { class: "frames" });
  for (const [image, caption] of [[frameImage, "frame"], [melImage, "log-mel"]]) {
    if (image) place.append(make("figure", {}, make("img", { src: image, alt: caption }), make("figcaption", {}, `thumbnail of the ${caption}`)));
  }
  return place;
};

const sampleCard = (data, row, one, thumbnails) => {
  const [status, , meaning] = data.statuses[row.status];
  const card = make("article", { class: "sample", "aria-label": row.key }, make("h3", { class: "mono" }, row.key));
  const chips = make("div", {}, make("span", { class: "chip" }, data.splits[row.split][0]));
  if (row.status !== data.ok) chips.append(make("span", { class: "chip failed" }, status));
  for (const label of row.labels) chips.append(make("span", { class: "chip" }, label));
  for (const flag of row.flags) chips.append(make("span", { class: "chip flag" }, data.flags[flag][0]));
  card.append(chips);
  if (row.status !== data.ok) {
    card.append(make("p", {}, meaning), make("p", { class: "bad" }, row.reason),
      make("p", { class: "facts" }, [row.video, row.source].filter(Boolean).join(" · ")));
    return card;
  }
  if (one.problem) {
    card.append(make("p", { class: "bad" }, one.problem));
    return card;
  }
  if (one.missing) {
    card.append(make("p", { class: "facts" }, [row.video, row.source].filter(Boolean).join(" · ")), preview(thumbnails),
      make("p", { class: "soft" }, one.missing));
    return card;
  }
  card.append(make("p", { class: "facts" }, one.facts), make("div", { class: "frames" }, ...one.frames.map(frame)));
  const audio = one.sound ? make("audio", { controls: "", preload: "metadata", src: one.sound, "aria-label": `sound of ${row.key}` }) : null;
  if (one.mel) card.append(spectrogram(one.mel, audio));
  if (audio) card.append(audio);
  return card;
};
