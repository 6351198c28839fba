"use strict";
// Draws what stssad measured: `page` is a `Page` of src/measure/page.rs.
const page = JSON.parse(document.getElementById("data").textContent);
const main = document.querySelector("main");
const COLOURS = ["#6f9bd1", "#e2a75e", "#6dbf8b", "#dd7f7f", "#a98bc9", "#5fc0c0", "#c9b458", "#dd8fb9", "#9c8f7f", "#8c9aa8"];

// Elements ---------------------------------------------------------------------------------------------------------

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function shape(tag, attributes = {}, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function section(title, note) {
  const made = element("section", {}, element("h2", {}, title), element("p", { class: "note" }, note));
  main.append(made);
  return made;
}

// A drawing as wide as the window allows, drawn again when that changes. `draw(svg, width)` returns its height.
function drawing(parent, draw) {
  const svg = shape("svg");
  parent.append(svg);
  const redraw = () => {
    const width = Math.max(340, parent.clientWidth);
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${draw(svg, width)}`);
  };
  redraw();
  new ResizeObserver(redraw).observe(parent);
  return redraw;
}

const tip = element("div", { id: "tip", hidden: "" });
document.body.append(tip);
function tells(node, text) {
  node.addEventListener("pointermove", (event) => {
    tip.textContent = text();
    tip.hidden = false;
    const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
    const below = event.clientY + 16;
    const top = below + tip.offsetHeight < innerHeight ? below : event.clientY - tip.offsetHeight - 10;
    tip.style.left = `${Math.max(4, left)}px`;
    tip.style.top = `${Math.max(4, top)}px`;
  });
  node.addEventListener("pointerleave", () => { tip.hidden = true; });
  return node;
}

// Figures ----------------------------------------------------------------------------------------------------------

function figure(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  const text = size === 0 ? "0" : value.toFixed(Math.max(0, 2 - Math.floor(Math.log10(size))));
  return text.replace(/\B(?=(\d{3})+(?!\d))(?<!\.\d*)/g, "\u202f");
}
const percent = (share) => (Number.isFinite(share) ? (100 * share).toFixed(1) : "–");
function bytes(count) {
  const unit = count >= 2 ** 30 ? 3 : count >= 2 ** 20 ? 2 : count >= 2 ** 10 ? 1 : 0;
  return `${figure(count / 2 ** (10 * unit))} ${["B", "KiB", "MiB", "GiB"][unit]}`;
}

const whole = page.cases.reduce((sum, entry) => sum + entry.microseconds, 0);
const familyOf = (kernel) => kernel.split("/")[0];
const families = [...new Set(page.cases.map((entry) => familyOf(entry.kernel)))].sort();
const colourOf = (kernel) => COLOURS[families.indexOf(familyOf(kernel)) % COLOURS.length];
const each = (entry) => entry.microseconds / entry.calls;
const gflops = (entry) => entry.flops / each(entry) / 1e3;
const gbs = (entry) => entry.bytes / each(entry) / 1e3;
const told = (entry) => [
  `${entry.name}`,
  entry.specialisation,
  `${entry.calls} × ${figure(each(entry))} µs = ${figure(entry.microseconds)} µs, ${percent(entry.microseconds / whole)} % of all`,
  `${figure(gflops(entry))} GFLOP/s, ${figure(gbs(entry))} GB/s, ${figure(entry.flops / entry.bytes)} FLOP/byte`,
  `${percent(entry.bound / entry.microseconds)} % of the bound`,
].join("\n");

// The table --------------------------------------------------------------------------------------------------------

const COLUMNS = [
  ["case", "name as `stssad check` takes it", (e) => e.name, (v) => v],
  ["calls", "equal dispatches of the step", (e) => e.calls, String],
  ["µs", "of one dispatch", each, figure],
  ["µs of all", "of all calls", (e) => e.microseconds, figure],
  ["% of all", "share of the time of all kernels", (e) => e.microseconds / whole, percent],
  ["GFLOP/s", "10⁹ floating-point operations a second", gflops, figure],
  ["GB/s", "10⁹ bytes of inputs and output a second", gbs, figure],
  ["FLOP/byte", "arithmetic intensity", (e) => e.flops / e.bytes, figure],
  ["% of bound", "least time under the roofs over the time; above 100, a cache served it", (e) => e.bound / e.microseconds, percent],
  ["before", "µs of all calls in the earlier report", (e) => e.old, figure],
  ["now ÷ before", "below 1 is faster", (e) => e.old && e.microseconds / e.old, figure],
  ["registers", "vector registers of a lane, by the compiler", (e) => e.finding?.registers, String],
  ["waves", "a SIMD holds so many at once, by the compiler", (e) => e.finding?.waves, String],
  ["spilled", "registers that did not fit, by the compiler", (e) => e.finding?.spilled, String],
  ["% FMA", "multiply-adds among the vector operations of the hot loop, by the compiler", (e) => e.finding?.fma_share, percent],
  ["loads in flight", "at the most, in the hot loop, by the compiler", (e) => e.finding?.loads_in_flight, String],
  ["model µs", "least time of one dispatch on the modelled GPU", (e) => e.finding?.bound, figure],
  ["model % of peak", "share of the modelled GPU's peak in f32", (e) => e.finding?.of_peak, percent],
  ["binds", "what binds in the model", (e) => e.finding?.binds, (v) => v],
].filter(([, , value]) => page.cases.some((entry) => value(entry) !== undefined && value(entry) !== null));

// So many rows are shown at first.
const FIRST = 20;
const rows = new Map();
let mark = () => {};
if (page.cases.length) {
  const made = section("Kernels", "Click a column to sort by it. Cases that differ in nothing else that the name tells are numbered.");
  const wanted = element("input", { type: "search", placeholder: "filter: conv2d, softbox, f=exp …", "aria-label": "filter by name" });
  const body = element("tbody");
  const heads = COLUMNS.map(([title, meaning], index) => {
    const head = element("th", { scope: "col", title: meaning }, element("button", {}, title));
    head.firstChild.addEventListener("click", () => {
      // Figures begin with the largest, names with the first.
      const is = head.getAttribute("aria-sort");
      sort(index, is ? is === "ascending" ? -1 : 1 : index === 0 ? 1 : -1);
    });
    return head;
  });
  const known = (value) => value !== undefined && value !== null && !Number.isNaN(value);
  const sort = (index, direction) => {
    const value = COLUMNS[index][2];
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[index].setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    const order = [...page.cases].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (!known(x) || !known(y)) return known(y) - known(x);
      return direction * (typeof x === "string" ? x.localeCompare(y) : x - y);
    });
    body.append(...order.map((entry) => rows.get(entry)));
    show();
  };
  // Those that the filter wants; without one, the first.
  const all = element("button", {}, `show all ${page.cases.length}`);
  all.hidden = page.cases.length <= FIRST;
  const show = () => {
    const name = wanted.value.trim();
    const limit = name || all.hidden ? Infinity : FIRST;
    const named = new Map([...rows].map(([entry, row]) => [row, `${entry.name} ${entry.kernel}`]));
    [...body.children].forEach((row, place) => { row.hidden = place >= limit || !named.get(row).includes(name); });
  };
  all.addEventListener("click", () => {
    all.hidden = true;
    show();
  });
  for (const entry of page.cases) {
    const cells = COLUMNS.map(([title, , value, text]) => {
      const given = value(entry);
      const cell = element("td", {}, known(given) ? text(given) : "–");
      if (title === "now ÷ before" && given > 1.05) cell.className = "worse";
      if (title === "now ÷ before" && given < 0.95) cell.className = "better";
      return cell;
    });
    cells[0].title = told(entry);
    rows.set(entry, element("tr", {}, ...cells));
  }
  wanted.addEventListener("input", show);
  mark = (entry) => {
    rows.forEach((row) => row.classList.remove("marked"));
    rows.get(entry).hidden = false;
    rows.get(entry).classList.add("marked");
    rows.get(entry).scrollIntoView({ block: "center", behavior: "smooth" });
  };
  made.append(wanted, element("div", { class: "wide" }, element("table", {}, element("thead", {}, element("tr", {}, ...heads)), body)), all);
  sort(COLUMNS.findIndex(([title]) => title === "µs of all"), -1);
}

// The roofline -----------------------------------------------------------------------------------------------------

function legend(svg, left, top, width, names) {
  let [x, y] = [left, top];
  names.forEach((name) => {
    const length = 30 + 6.5 * name.length;
    if (x + length > left + width) [x, y] = [left, y + 18];
    svg.append(shape("rect", { x, y: y - 10, width: 11, height: 11, fill: colourOf(name) }), shape("text", { x: x + 16, y }, name));
    x += length;
  });
  return y + 12;
}

const points = page.cases.filter((entry) => entry.flops > 0 && entry.microseconds > 0);
if (points.length) {
  const made = section(
    "Roofline",
    "A point for each case, its area the share of the time. The ten that take most time are named; point at any, and click it to find its row.",
  );
  drawing(made, (svg, width) => {
    const [left, right, top, bottom] = [56, width - 16, 16, 416];
    const [roof, slope] = [page.flops / 1e9, page.bandwidth / 1e9];
    const xs = points.map((entry) => entry.flops / entry.bytes);
    const ys = points.map(gflops);
    const decades = (values) => [Math.floor(Math.log10(Math.min(...values))), Math.ceil(Math.log10(Math.max(...values)))];
    const [x0, x1] = decades([...xs, roof / slope]);
    const [lowest, y1] = decades([...ys, roof]);
    // Tiny dispatches lie at the bottom: they are a matter of latency.
    const y0 = Math.max(lowest, y1 - 5);
    const x = (value) => left + ((Math.log10(value) - x0) / (x1 - x0 || 1)) * (right - left);
    const y = (value) => bottom - (Math.max(0, Math.log10(value) - y0) / (y1 - y0 || 1)) * (bottom - top);
    const tick = (power) => (power < -2 || power > 5 ? `1e${power}` : String(Number((10 ** power).toPrecision(1))));
    for (let power = x0; power <= x1; power += 1) {
      svg.append(shape("line", { class: "axis", x1: x(10 ** power), x2: x(10 ** power), y1: top, y2: bottom }));
      svg.append(shape("text", { x: x(10 ** power), y: bottom + 16, "text-anchor": "middle" }, tick(power)));
    }
    for (let power = y0; power <= y1; power += 1) {
      svg.append(shape("line", { class: "axis", x1: left, x2: right, y1: y(10 ** power), y2: y(10 ** power) }));
      svg.append(shape("text", { x: left - 6, y: y(10 ** power) + 4, "text-anchor": "end" }, tick(power)));
    }
    svg.append(shape("text", { x: (left + right) / 2, y: bottom + 34, "text-anchor": "middle" }, "arithmetic intensity in FLOP per byte of inputs and output"));
    svg.append(shape("text", { transform: `translate(12 ${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, "GFLOP/s"));
    const ridge = roof / slope;
    const start = Math.max(10 ** x0, 10 ** y0 / slope);
    svg.append(shape("path", { class: "roof", d: `M${x(start)} ${y(start * slope)}L${x(ridge)} ${y(roof)}L${right} ${y(roof)}` }));
    svg.append(shape("text", { x: right, y: y(roof) - 5, "text-anchor": "end" }, `${figure(roof)} GFLOP/s`));
    svg.append(shape("text", { x: x(start) + 8, y: y(start * slope) - 14 }, `${figure(slope)} GB/s`));

    const radius = (share) => 3 + 22 * Math.sqrt(share);
    const order = points.map((entry, at) => [entry, x(xs[at]), y(ys[at])]).sort((a, b) => b[0].microseconds - a[0].microseconds);
    for (const [entry, cx, cy] of order) {
      const dot = shape("circle", { cx, cy, r: radius(entry.microseconds / whole), fill: colourOf(entry.kernel), "fill-opacity": 0.75 });
      dot.addEventListener("click", () => mark(entry));
      svg.append(tells(dot, () => told(entry)));
    }
    // A name that would lie over another is left out.
    const taken = [];
    for (const [entry, cx, cy] of order.slice(0, 10)) {
      const name = entry.name.length > 44 ? `${entry.name.slice(0, 43)}…` : entry.name;
      const length = 5.6 * name.length;
      const from = cx + length + 12 > right ? cx - length - 8 : cx + 8;
      const box = [Math.max(left, from), cy - 8, Math.max(left, from) + length, cy + 4];
      if (taken.some((other) => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3])) continue;
      taken.push(box);
      svg.append(shape("text", { x: box[0], y: cy + 3, style: "pointer-events: none" }, name));
    }
    const end = legend(svg, left, bottom + 58, right - left, families);
    let at = left;
    for (const share of [0.01, 0.1, 0.4]) {
      at += radius(share) + 4;
      svg.append(shape("circle", { cx: at, cy: end + 18, r: radius(share), fill: "none", stroke: "currentColor", "stroke-opacity": 0.5 }));
      svg.append(shape("text", { x: at + radius(share) + 4, y: end + 22 }, `${100 * share} %`));
      at += radius(share) + 44;
    }
    return end + 42;
  });
}

// The timeline -----------------------------------------------------------------------------------------------------

// Boxes of scopes, outermost first, and of dispatches: [depth, name, first dispatch, one after the last].
function scopes(slices) {
  const boxes = [];
  const open = [];
  slices.forEach((slice, at) => {
    const path = slice.scope === "" ? [] : slice.scope.split(".");
    let common = 0;
    while (common < open.length && common < path.length && open[common][1] === path[common]) common += 1;
    open.splice(common).forEach((box) => { box[3] = at; });
    for (const name of path.slice(common)) {
      const box = [open.length, name, at, slices.length];
      open.push(box);
      boxes.push(box);
    }
  });
  return boxes;
}

if (page.dispatches.length) {
  const made = section(
    "Timeline",
    "The median time of each dispatch, one after another, under its scopes. Click a scope to see it alone.",
  );
  const ends = [];
  page.dispatches.reduce((sum, slice) => (ends.push(sum + slice.microseconds), sum + slice.microseconds), 0);
  const begin = (at) => (at === 0 ? 0 : ends[at - 1]);
  const boxes = scopes(page.dispatches);
  const depth = 1 + boxes.reduce((most, [level]) => Math.max(most, level), -1);
  let view = [0, page.dispatches.length];
  const back = element("button", { hidden: "" }, "whole step");
  made.append(back);
  const redraw = drawing(made, (svg, width) => {
    const [from, to] = [begin(view[0]), ends[view[1] - 1]];
    const x = (time) => ((time - from) / (to - from || 1)) * width;
    const box = (level, name, first, last, fill, text, click) => {
      const [x0, x1] = [Math.max(0, x(begin(first))), Math.min(width, x(ends[last - 1]))];
      if (x1 <= 0 || x0 >= width || x1 - x0 < 0.2) return;
      const y = 22 * level;
      const made = shape("rect", { class: "box", x: x0, y, width: x1 - x0, height: 20, fill });
      made.addEventListener("click", click);
      svg.append(tells(made, text));
      const fits = Math.floor((x1 - x0 - 6) / 6.2);
      if (fits > 2) svg.append(shape("text", { class: "inside", x: x0 + 3, y: y + 14 }, name.length > fits ? `${name.slice(0, fits - 1)}…` : name));
    };
    for (const [level, name, first, last] of boxes) {
      if (last <= view[0] || first >= view[1]) continue;
      const time = ends[last - 1] - begin(first);
      box(level, name, first, last, "#c3cad4", () => `${name}\n${last - first} dispatches, ${figure(time)} µs, ${percent(time / ends.at(-1))} %`, () => {
        view = [first, last];
        back.hidden = false;
        redraw();
      });
    }
    for (let at = view[0]; at < view[1]; at += 1) {
      const slice = page.dispatches[at];
      const entry = page.cases[slice.case];
      const text = () => `dispatch ${at}: ${figure(slice.microseconds)} µs in ${slice.scope || "no scope"}\n${told(entry)}`;
      box(depth, familyOf(entry.kernel), at, at + 1, colourOf(entry.kernel), text, () => mark(entry));
    }
    const bottom = 22 * depth + 22;
    for (let quarter = 0; quarter <= 4; quarter += width < 600 ? 2 : 1) {
      const anchor = ["start", "middle", "middle", "middle", "end"][quarter];
      const time = from + ((to - from) * quarter) / 4;
      svg.append(shape("text", { class: "faint", x: (width * quarter) / 4, y: bottom + 14, "text-anchor": anchor }, `${figure(time)} µs`));
    }
    return bottom + 20;
  });
  back.addEventListener("click", () => {
    view = [0, page.dispatches.length];
    back.hidden = true;
    redraw();
  });
}

// Memory -----------------------------------------------------------------------------------------------------------

if (page.memory && page.memory.live.length) {
  const memory = page.memory;
  const made = section(
    "Memory",
    `${bytes(memory.slot_bytes)} in ${memory.slots.length} slots, ${bytes(memory.live_bytes)} live at most (the line), ` +
      `${bytes(memory.bytes_without_reuse)} without reuse; beside them ${bytes(memory.state_bytes)} of states, ` +
      `${bytes(memory.feed_bytes)} of inputs. A box is a value in its slot, coloured by the kernel that writes it.`,
  );
  drawing(made, (svg, width) => {
    const [left, right, top, bottom] = [64, width - 8, 8, 348];
    const x = (at) => left + (at / (memory.live.length + 1)) * (right - left);
    const y = (size) => bottom - (size / (memory.slot_bytes || 1)) * (bottom - top);
    const bases = [];
    memory.slots.reduce((sum, size) => (bases.push(sum), sum + size), 0);
    for (const stay of memory.tenancies) {
      const height = y(0) - y(stay.bytes);
      if (height < 0.1) continue;
      const made = shape("rect", {
        class: "box", x: x(stay.first), width: x(stay.last + 1) - x(stay.first), y: y(bases[stay.slot] + stay.bytes), height, fill: colourOf(stay.kernel),
      });
      svg.append(tells(made, () => `${stay.value}: ${bytes(stay.bytes)} in slot ${stay.slot}\n${stay.kernel} in ${stay.scope || "no scope"}\ndispatches ${stay.first} to ${stay.last}`));
    }
    svg.append(shape("path", { class: "roof", d: memory.live.map((size, at) => `${at ? "L" : "M"}${x(at)} ${y(size)}`).join(""), "pointer-events": "none" }));
    for (let quarter = 0; quarter <= 4; quarter += 1) {
      const [size, at] = [(memory.slot_bytes * quarter) / 4, Math.round((memory.live.length * quarter) / 4)];
      svg.append(shape("text", { x: left - 6, y: y(size) + 4, "text-anchor": "end" }, bytes(size)));
      svg.append(shape("text", { x: x(at), y: bottom + 16, "text-anchor": "middle" }, String(at)));
    }
    svg.append(shape("text", { class: "faint", x: (left + right) / 2, y: bottom + 34, "text-anchor": "middle" }, "dispatches of the step"));
    return bottom + 44;
  });
}
