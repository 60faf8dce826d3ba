// The same queries, asked of the server of `avkit inspect --serve`. Addresses are relative: the page's own has the token.

const remoteSource = (data) => {
  const asked = async (address) => {
    const answer = await fetch(address, { credentials: "omit", redirect: "error" });
    const content = await answer.json();
    if (!answer.ok) throw new Error(content.error);
    return content;
  };
  const hasSample = (row) => row.status === data.ok;
  const known = new Map();
  const decoded = (rows) => rows.map(decodedRow).map((row) => {
    known.set(row.id, row);
    if (known.size > 10000) known.delete(known.keys().next().value);
    return row;
  });
  return {
    query: async (query) => {
      const found = await asked(`query?q=${encodeURIComponent(JSON.stringify(query))}`);
      return { ...found, rows: decoded(found.rows) };
    },
    row: async (id) => known.get(id) || decoded([(await asked(`row/${id}`)).row])[0],
    thumbnails: (id) => {
      const row = known.get(id);
      return data.media && (!row || hasSample(row)) ? [`frame/${id}.webp`, `mel/${id}.webp`] : ["", ""];
    },
    sample: (id) => asked(`sample/${id}`),
  };
};
