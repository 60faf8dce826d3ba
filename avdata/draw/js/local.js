// The clips that a page holds, with the queries of avdata/audit/rows.py answered in the browser.

const localSource = (data) => {
  const rows = data.rows.map(decodedRow);
  const byId = new Map(rows.map((row) => [row.id, row]));
  // One line a row in lower case, made once: a key stroke then is one pass over plain strings.
  const lines = rows.map((row) =>
    [row.key, row.video, data.statuses[row.status][0], row.reason, row.source, row.labels.join(", ")]
      .join("\u0001").toLowerCase());
  const bars = data.columns.map(({ low, high }, column) => rows.map((row) => {
    const value = row.numbers[column];
    if (value === null || value === undefined) return -1;
    const share = (Math.min(Math.max(value, low), high) - low) / (high - low || 1);
    return Math.min(Math.floor(share * data.bars), data.bars - 1);
  }));
  const orders = new Map();

  const keyOf = (sort) => {
    if (sort === "status" || sort === "split" || sort === "key") return (row) => row[sort];
    if (sort === "flags") return (row) => row.flags.length;
    if (sort === "labels") return (row) => (row.labels.length ? row.labels.join(", ") : null);
    return (row) => row.numbers[sort];
  };

  // Places of all rows in an order; equal ones as they stand, those without a value last.
  const order = (sort, descending) => {
    const name = `${sort} ${descending}`;
    if (!orders.has(name)) {
      const keys = rows.map(keyOf(sort)), sign = descending ? -1 : 1;
      const none = (value) => value === null || value === undefined;
      orders.set(name, rows.map((_, place) => place).sort((a, b) => {
        const first = keys[a], second = keys[b];
        if (none(first) || none(second)) return none(first) - none(second) || a - b;
        return first < second ? -sign : first > second ? sign : a - b;
      }));
    }
    return orders.get(name);
  };

  const inside = (area) => {
    if (!area) return null;
    const [stream, left, top, right, bottom] = area;
    const places = data.maps.streams[stream][1], found = new Set();
    data.maps.rows.forEach((id, at) => {
      const [x, y] = places[at];
      if (x >= left && x <= right && y >= top && y <= bottom) found.add(id);
    });
    return found;
  };

  const answer = (query) => {
    const words = query.text.toLowerCase().split(/\s+/).filter(Boolean).slice(0, 20);
    const label = query.label === null ? null : data.labels[query.label][0];
    const area = inside(query.area);
    const meets = (row, place) =>
      (query.status === null || (query.status === FAILED ? row.status !== data.ok : row.status === query.status))
      && (query.split === null || row.split === query.split)
      && (query.flag === null || row.flags.includes(query.flag))
      && (label === null || row.labels.includes(label))
      && (area === null || area.has(row.id))
      && words.every((word) => lines[place].includes(word));
    const counts = data.columns.map(() => new Array(data.bars).fill(0));
    const holds = new Set();
    rows.forEach((row, place) => {
      if (!meets(row, place)) return;
      // A row outside of one brush alone still counts in the histogram of that brush.
      const outside = query.bins.filter(([column, first, last]) => bars[column][place] < first || bars[column][place] > last);
      if (!outside.length) holds.add(place);
      if (outside.length > 1) return;
      counts.forEach((column, at) => {
        const bar = bars[at][place];
        if (bar >= 0 && (!outside.length || outside[0][0] === at)) column[bar] += 1;
      });
    });
    const found = order(query.sort, query.descending).filter((place) => holds.has(place));
    const met = new Set([...holds].map((place) => rows[place].id));
    return {
      total: found.length,
      rows: found.slice(query.offset, query.offset + query.limit).map((place) => rows[place]),
      counts,
      mapped: data.maps ? data.maps.rows.map((id) => (met.has(id) ? "1" : "0")).join("") : "",
    };
  };

  return {
    query: async (query) => answer(query),
    row: async (id) => byId.get(id),
    thumbnails: (id) => data.thumbnails[id] || ["", ""],
    sample: async (id) => data.samples[id] || { missing: data.missing },
  };
};
