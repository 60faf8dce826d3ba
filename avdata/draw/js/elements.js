// Elements and words. Everything from the dataset enters the page as text or as an attribute of a fixed name: never as
// markup.

const SVG = "http://www.w3.org/2000/svg";

const filled = (element, attributes, children) => {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};

const make = (tag, attributes = {}, ...children) => filled(document.createElement(tag), attributes, children);

const draw = (tag, attributes = {}, ...children) => filled(document.createElementNS(SVG, tag), attributes, children);

const count = (number) => number.toLocaleString("en");

// A measured value with four digits; whole numbers whole.
const shownNumber = (value) => {
  if (value === null || value === undefined) return "";
  return Number.isInteger(value) ? count(value) : String(Number(value.toPrecision(4)));
};

const withUnit = (value, unit) => (unit ? `${shownNumber(value)} ${unit}` : shownNumber(value));

// A field with its label, which screen readers read and a click on which goes to the field.
const labelled = (text, field) => make("label", { class: "field" }, make("span", {}, text), field);

// A choice among [text, value] pairs; the value of the first is null.
const chooser = (label, options) => {
  const select = make("select");
  for (const [text, value] of options) select.append(make("option", { value: value === null ? "" : value }, text));
  return { element: labelled(label, select), select, value: () => (select.value === "" ? null : Number(select.value)) };
};

// Row of the answer to a query, as avdata/audit/rows.py gives it.
const decodedRow = ([id, key, split, status, reason, video, source, labels, flags, numbers]) =>
  ({ id, key, split, status, reason, video, source, labels, flags, numbers });

const FAILED = -1;
