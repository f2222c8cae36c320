"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const COLOURS = ["#0969da", "#bc4c00", "#1a7f37", "#8250df", "#bf3989", "#0f7a82", "#7d6a00", "#a40e26"];
const SVG = "http://www.w3.org/2000/svg";
const ALONE = "#6e7781";
const MOST_FILLED = 40; // texts of a class up to which its triangles are filled
const MOST_FINDINGS = 200;
const MOST_WORDS = 60; // texts of a class up to which its points carry numbers, and words where there is room
const LONGEST_WORD = 24;

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function shape(tag, attributes = {}) {
  const made = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function titled(drawn, text) {
  const title = shape("title");
  title.textContent = text;
  drawn.append(title);
  return drawn;
}

// Up to rounding, as s3clip.space.rips.within: ε is often the length of an edge.
const within = (length, scale) => length <= scale * (1 + 1e-6);

function floats(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

function edgesOf(own) {
  if (own.lengths === null) return own.tree;
  const lengths = floats(own.lengths), edges = [];
  let at = 0;
  for (let a = 0; a < own.rows.length; a++)
    for (let b = a + 1; b < own.rows.length; b++) edges.push([a, b, lengths[at++]]);
  return edges;
}

// The component of every distinct text at a scale, numbered by size, the largest first.
function components(own, scale) {
  const parent = own.rows.map((_, i) => i);
  const root = (i) => { while (parent[i] !== i) i = parent[i]; return i; };
  for (const [a, b, length] of own.tree) if (within(length, scale)) parent[root(a)] = root(b);
  const members = new Map();
  parent.forEach((_, i) => members.set(root(i), [...(members.get(root(i)) || []), i]));
  const labels = new Array(parent.length);
  const sorted = [...members.values()].sort((one, other) => other.length - one.length || one[0] - other[0]);
  sorted.forEach((points, label) => points.forEach((i) => { labels[i] = label; }));
  return { labels, sizes: sorted.map((points) => points.length) };
}

const colourOf = (label, size) => (size === 1 ? ALONE : COLOURS[label % COLOURS.length]);
const signed = (value) => (value === null ? "–" : value.toFixed(2));
const nameOf = (index) => data.classes[index].name;
const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : noun.endsWith("s") ? "es" : "s"}`;
const unit_of_points = data.settings.points.slice(0, -1);

function barcode(own, most) {
  const width = 400, left = 8, right = 24, bars = own.tree.length + 1;
  const step = Math.max(2, Math.min(12, 240 / bars)), height = bars * step + 26;
  const x = (scale) => left + (width - left - right) * Math.min(1, scale / most);
  const drawn = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "H0 barcode" });
  const line = (y, end) => shape("line", { class: "bar", x1: left, x2: end, y1: y, y2: y, "stroke-width": Math.max(1, step * 0.55) });
  own.tree.forEach(([a, b, length], i) => {
    const said = `dies at ${length.toFixed(4)}: ${own.texts[own.rows[a]][0]} – ${own.texts[own.rows[b]][0]}`;
    drawn.append(titled(line((i + 0.7) * step, x(length)), said));
  });
  drawn.append(titled(line((bars - 0.3) * step, width - 12), "never dies"));
  const arrow = shape("text", { x: width - 12, y: (bars - 0.3) * step + 4 });
  arrow.textContent = "∞";
  drawn.append(arrow);
  for (const [at, said] of [[0, "0"], [most / 2, (most / 2).toFixed(2)], [most, most.toFixed(2)]]) {
    const label = shape("text", { x: x(at), y: height - 6, "text-anchor": at ? "middle" : "start" });
    label.textContent = said;
    drawn.append(label);
  }
  const now = shape("line", { class: "now", y1: 0, y2: height - 18 });
  drawn.append(now);
  return { drawn, show(scale) { now.setAttribute("x1", x(scale)); now.setAttribute("x2", x(scale)); } };
}

// The words beside their points, the own name first; one that would lie over a point or a word is left out.
function words(own, at, size) {
  const taken = at.map(([x, y]) => [x - 9, y - 9, x + 9, y + 9]), made = [];
  const free = ([left, top, right, bottom], self) => left >= 0 && right <= size && top >= 0 && bottom <= size &&
    taken.every(([l, t, r, b], i) => i === self || right <= l || left >= r || bottom <= t || top >= b);
  own.rows.forEach((row, i) => {
    const full = own.texts[row][0], said = full.length > LONGEST_WORD ? `${full.slice(0, LONGEST_WORD - 1)}…` : full;
    const width = 6.6 * said.length, [x, y] = at[i];
    for (const [left, top] of [[x + 12, y - 6], [x - 12 - width, y - 6], [x - width / 2, y + 10], [x - width / 2, y - 23]]) {
      const box = [left, top, left + width, top + 13];
      if (!free(box, i)) continue;
      taken.push(box);
      const label = shape("text", { class: "said", x: left, y: top + 10, "pointer-events": "none" });
      label.textContent = said;
      made.push(label);
      break;
    }
  });
  return made;
}

function complex(own, mark) {
  const size = 400, margin = 24;
  const spread = Math.max(1e-9, ...own.plane.flat().map(Math.abs));
  const place = ([x, y]) => [size / 2 + (x / spread) * (size / 2 - margin), size / 2 - (y / spread) * (size / 2 - margin)];
  const at = own.plane.map(place), edges = edgesOf(own);
  const drawn = shape("svg", { viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": "the complex in two dimensions" });
  const filled = shape("path", { class: "filled" });
  const lines = shape("path", { class: "edges" });
  const tree = shape("path", { class: "tree" });
  drawn.append(filled, lines, tree);
  const circles = own.rows.map((row, i) => {
    const circle = shape("circle", { cx: at[i][0], cy: at[i][1], r: own.rows.length > MOST_WORDS ? 4 : 9, class: row ? "point" : "point name" });
    titled(circle, own.texts[row][0]);
    circle.addEventListener("pointerenter", () => mark(row));
    circle.addEventListener("click", () => mark(row));
    drawn.append(circle);
    if (own.rows.length <= MOST_WORDS) {
      const number = shape("text", { x: at[i][0], y: at[i][1] + 4, "text-anchor": "middle", "pointer-events": "none" });
      number.textContent = String(row + 1);
      number.style.fill = "#fff";
      drawn.append(number);
    }
    return circle;
  });
  if (own.rows.length <= MOST_WORDS) drawn.append(circles[0], circles[0].nextSibling); // the own name on top
  else drawn.append(circles[0]);
  if (own.rows.length <= MOST_WORDS) drawn.append(...words(own, at, size));
  const path = (chosen) => chosen.map(([a, b]) => `M${at[a][0].toFixed(1)} ${at[a][1].toFixed(1)}L${at[b][0].toFixed(1)} ${at[b][1].toFixed(1)}`).join("");

  function triangles(chosen) {
    if (own.rows.length > MOST_FILLED || own.lengths === null) return "";
    const joined = own.rows.map(() => new Set());
    for (const [a, b] of chosen) { joined[a].add(b); joined[b].add(a); }
    let found = "";
    for (const [a, b] of chosen) for (const c of joined[a]) {
      if (c <= b || !joined[b].has(c)) continue;
      const [p, q, r] = [at[a], at[b], at[c]];
      // One sense of rotation, so that overlaps do not cancel.
      const turn = (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]);
      const corners = turn > 0 ? [p, q, r] : [p, r, q];
      found += `M${corners.map((corner) => corner.map((v) => v.toFixed(1)).join(" ")).join("L")}Z`;
    }
    return found;
  }

  return {
    drawn, circles,
    show(scale, found) {
      const chosen = edges.filter((edge) => within(edge[2], scale));
      lines.setAttribute("d", path(chosen));
      tree.setAttribute("d", path(own.tree.filter((edge) => within(edge[2], scale))));
      filled.setAttribute("d", triangles(chosen));
      circles.forEach((circle, i) => { circle.style.fill = colourOf(found.labels[i], found.sizes[found.labels[i]]); });
      return chosen.length;
    },
  };
}

// Images: [file, , probability, thumbnail, class of the folder or null]; `said` is what stands below each.
function figures(images, count, said) {
  if (!count) return null;
  const shown = images.map((image) => {
    const [text, wrong] = said(image);
    return element("figure", { title: image[0], class: wrong ? "wrong" : "" },
      element("img", { src: image[3], alt: `${image[0]}: ${text}` }), element("figcaption", {}, text));
  });
  const more = count > images.length ? [element("span", { class: "soft" }, `and ${count - images.length} more`)] : [];
  return element("div", { class: "photos" }, ...shown, ...more);
}

function photos(own, index, row) {
  const found = own.images.filter((image) => image[1] === row);
  return figures(found, own.matched[row === null ? "" : row] || 0, ([, , score, , truth]) => {
    const wrong = truth !== null && truth !== index;
    return [`${(100 * score).toFixed(0)} %${wrong ? `, is ${nameOf(truth)}` : ""}`, wrong];
  });
}

// Why a text was dropped, and what can be done about it.
function advice(own, text, [distance, leans, settings, kept, answers]) {
  const unit = data.relative ? `${distance.toFixed(2)} margins` : distance.toFixed(2);
  const least = own.scale === null ? "" : `, more than ε = ${own.scale.toFixed(2)}`;
  const lean = leans === null ? "" : `, and ${nameOf(leans)} is the nearest other class`;
  let change = "";
  if (kept !== null) {
    change = ` Then ${counted(kept, unit_of_points)} more ${kept === 1 ? "is" : "are"} kept in all`;
    if (answers !== null) change += `, and ${counted(answers, "image")} of ${data.images} ${answers === 1 ? "is" : "are"} answered otherwise`;
    change += ".";
  }
  return element("ul", { class: "advice" },
    element("li", {}, `Left out: ${unit} from what is kept${least}${lean}. No image is compared with it.`),
    element("li", {}, "It does not mean this class? Take it out of the file."),
    element("li", {}, `It does? Say it less ambiguously: “${text} (${own.name})”. Or keep it, by `, element("code", {}, `--config '${settings}'`), ` of s3clip fit.${change}`));
}

function textList(own, index, mark) {
  const rows = own.texts.map(([text, status, repeats, shared, own_cosine, other_cosine, other, variants, reason], row) => {
    const number = element("span", { class: "number" }, String(row + 1));
    const said = [row ? null : "own name", status === "duplicate" ? `repeats ${repeats + 1}` : status,
      shared.length ? `also in: ${shared.slice(0, 3).map(nameOf).join(", ")}${shared.length > 3 ? ", …" : ""}` : null];
    const cell = element("div", { class: "word" }, element("b", {}, text), " ", element("span", { class: "soft" }, said.filter(Boolean).join(" · ")));
    const matched = photos(own, index, row);
    if (matched) cell.append(matched);
    if (reason) cell.append(advice(own, text, reason));
    if (variants.length) cell.append(element("details", { class: "soft" }, element("summary", {}, `with ${counted(variants.length, "descriptor")}`), ...variants.map((each) => element("div", {}, each))));
    cell.title = `cosine with its own class ${signed(own_cosine)}${other < 0 ? "" : `, with ${nameOf(other)} ${signed(other_cosine)}`}`;
    const line = element("li", { class: status }, number, cell);
    line.addEventListener("pointerenter", () => mark(row));
    return line;
  });
  return { list: element("ol", { class: "texts" }, ...rows), rows };
}

// The table of cosines, for those who look closely.
function cosines(own) {
  const heads = ["", data.settings.points.slice(0, -1), "own class", "nearest other class"];
  const rows = own.texts.map(([text, , , , own_cosine, other_cosine, other], row) =>
    [String(row + 1), text, signed(own_cosine), other < 0 ? "–" : `${signed(other_cosine)} ${nameOf(other)}`]);
  return element("div", { class: "wide" }, element("table", {},
    element("thead", {}, element("tr", {}, ...heads.map((each) => element("th", { scope: "col" }, each)))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((each) => element("td", {}, each)))))));
}

function fill(body, own, index) {
  const deaths = own.tree.map((edge) => edge[2]);
  const most = 1.1 * Math.max(0.1, own.scale || 0, ...deaths);
  const chosen = own.scale === null ? most : own.scale;
  let view, listed;
  function mark(row) {
    const at = own.rows.indexOf(own.texts[row][2] === null ? row : own.texts[row][2]);
    listed.rows.forEach((line, i) => line.classList.toggle("marked", i === row));
    view.circles.forEach((circle, i) => circle.classList.toggle("marked", i === at));
  }
  view = complex(own, mark);
  listed = textList(own, index, mark);
  const bars = barcode(own, most);
  const slider = element("input", { type: "range", min: 0, max: most, step: "any", value: chosen, "aria-label": `ε of ${own.name}` });
  const said = element("output", {});
  const reset = element("button", { type: "button" }, "chosen ε");
  function show(scale) {
    const found = components(own, scale);
    const count = view.show(scale, found);
    bars.show(scale);
    said.textContent = `ε = ${scale.toFixed(4)} · Betti-0 = ${found.sizes.length} · ${count} ${own.lengths === null ? "tree edges" : "edges"}`;
    Object.assign(said.dataset, { scale, components: found.sizes.length, edges: count, labels: found.labels.join(" ") });
    own.rows.forEach((row, i) => { listed.rows[row].querySelector(".number").style.background = colourOf(found.labels[i], found.sizes[found.labels[i]]); });
    own.texts.forEach((text, row) => { if (text[2] !== null) listed.rows[row].querySelector(".number").style.background = ALONE; });
  }
  slider.addEventListener("input", () => show(Number(slider.value)));
  reset.addEventListener("click", () => { slider.value = chosen; show(chosen); });
  const units = data.relative ? "ε in units of the margin: 1 where another class is as near" : "ε is a chordal distance";

  if (own.findings.length) body.append(...own.findings.map((f) => element("p", { class: "finding" }, badge(f[0]), ` ${f[4]}`)));
  body.append(listed.list);
  if (own.negatives.length) body.append(element("p", { class: "negatives" }, element("span", { class: "soft" }, "Measured against: "), own.negatives.map((text) => `“${text}”`).join(", ")));
  const loose = photos(own, index, null);
  if (loose) body.append(element("h3", {}, "Images that matched no single text"), loose);
  const missed = figures(own.missed, own.missed_count, ([, other, score]) => [`taken for ${nameOf(other)}, ${(100 * score).toFixed(0)} %`, true]);
  if (missed) body.append(element("h3", {}, `Images of ${own.name} that went elsewhere: ${own.missed_count}`), missed);
  body.append(element("p", {}, element("span", { class: "soft" }, "Nearest classes: "), ...(own.nearest.length
    ? own.nearest.flatMap(([other, cosine], i) => [i ? ", " : "", link(other), element("span", { class: "soft" }, ` ${cosine.toFixed(2)}`)])
    : [element("span", { class: "soft" }, "none, there is one class")])));
  body.append(element("details", { class: "topology" }, element("summary", {}, "Details: complex, barcode, cosines"),
    element("div", { class: "drawn" },
      element("div", {}, element("h3", {}, "Complex"), view.drawn,
        element("div", { class: "slider" }, slider, reset, said),
        element("p", { class: "soft" }, `${units}. The plane shows ${(100 * own.shown).toFixed(0)} % of the spread; dark edges are the spanning tree, the thick ring is the class's own name.`)),
      element("div", {}, element("h3", {}, "Barcode (H0)"), bars.drawn,
        element("p", { class: "soft deaths" }, `Death times: ${deaths.length ? deaths.map((d) => d.toFixed(4)).join(" ") : "none, one text"}`),
        element("h3", {}, "Cosines"), cosines(own)))));
  show(chosen);
}

function badge(weight) {
  return element("span", { class: weight >= 6 ? "weight heavy" : "weight", title: "weight" }, String(weight));
}

function link(index) {
  const made = element("button", { type: "button" }, nameOf(index));
  made.addEventListener("click", () => open(index));
  return made;
}

const places = [];
data.classes.forEach((own) => { own.findings = []; });
for (const finding of data.findings) data.classes[finding[2]].findings.push(finding);

// What is said of a class whose texts are not on the page.
function leftOut(own) {
  return element("p", { class: "soft" }, `This page has the texts of ${counted(data.shown, "class")}, those with images and the heaviest warnings first. For this one: `,
    element("code", {}, `s3clip inspect HEAD --class '${own.name}' --page page.html`));
}

data.classes.forEach((own, index) => {
  const count = own.count;
  own.size = count.kept + count.dropped + count.duplicate;
  own.photographed = Object.values(own.matched || {}).reduce((sum, n) => sum + n, 0);
  own.said = [own.name, own.id === null ? "" : String(own.id), ...(own.texts || []).flatMap((text) => [text[0], ...text[7]]), ...own.negatives].join("\n").toLowerCase();
  const facts = [`${count.kept} of ${own.size} kept`];
  if (count.duplicate) facts.push(`${count.duplicate} repeated`);
  if (own.negatives.length) facts.push(counted(own.negatives.length, "negative"));
  if (data.images) facts.push(counted(own.photographed, "image") + (own.known ? `, ${own.right} of ${own.known} right` : ""));
  const heading = element("summary", {}, element("b", {}, own.name), element("span", { class: "soft" }, facts.join(" · ")));
  if (own.weight) heading.append(badge(own.weight));
  const place = element("details", { class: "class", "data-index": index }, heading);
  place.addEventListener("toggle", () => {
    if (!place.open || place.querySelector(".body")) return;
    const body = element("div", { class: "body" });
    place.append(body);
    if (own.texts === null) body.append(leftOut(own));
    else fill(body, own, index);
  });
  places.push(place);
});

const nearness = (own) => ((own.nearest || [])[0] || [0, -2])[1];
const ORDERS = {
  "position": null,
  "warnings": (one, other) => other.weight - one.weight,
  "name": (one, other) => one.name.localeCompare(other.name),
  "texts dropped": (one, other) => other.count.dropped - one.count.dropped,
  "number of texts": (one, other) => other.size - one.size,
  "nearest class": (one, other) => nearness(other) - nearness(one),
  "ε": (one, other) => (other.scale === null ? Infinity : other.scale) - (one.scale === null ? Infinity : one.scale) || 0,
};
if (data.images) ORDERS.images = (one, other) => other.photographed - one.photographed;

const main = document.getElementById("classes"), search = document.getElementById("search");
const sort = document.getElementById("sort"), found = document.getElementById("found");
const level = document.getElementById("level");
for (const name of Object.keys(ORDERS)) sort.append(element("option", {}, name));
level.append(element("option", { value: "" }, "nothing"), ...data.levels.map((name) => element("option", { value: name }, name)));
level.parentElement.hidden = !data.levels.length;

function folded(name, own) {
  const heading = element("summary", {}, element("b", {}, name), element("span", { class: "soft" }, `${own.length} classes`));
  const made = element("details", { class: "group" }, heading);
  for (const place of own) made.append(place);
  return made;
}

function arrange() {
  const order = ORDERS[sort.value], indices = data.classes.map((_, index) => index);
  if (order) indices.sort((one, other) => order(data.classes[one], data.classes[other]) || one - other);
  const groups = new Map();
  for (const index of indices) {
    const own = data.classes[index].groups, name = own[level.value] === undefined ? nameOf(index) : own[level.value];
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(places[index]);
  }
  // One by one: a call takes some ten thousand arguments.
  const made = document.createDocumentFragment();
  if (level.value) for (const [name, own] of groups) made.append(folded(name, own));
  else for (const index of indices) made.append(places[index]);
  main.replaceChildren(made);
  filter();
}

function filter() {
  const wanted = search.value.trim().toLowerCase();
  let count = 0;
  data.classes.forEach((own, index) => {
    const shown = own.said.includes(wanted);
    if (places[index].hidden === shown) places[index].hidden = !shown;
    count += shown;
  });
  for (const group of main.querySelectorAll(".group")) {
    group.hidden = !group.querySelector(".class:not([hidden])");
    if (wanted) group.open = true;
  }
  found.textContent = `${count} of ${data.classes.length}`;
}

function open(index) {
  if (places[index].hidden) { search.value = ""; filter(); }
  const group = places[index].closest(".group");
  if (group) group.open = true;
  places[index].open = true;
  // Not `scrollIntoView`, which scrolls what this page is a frame of, too.
  const top = places[index].getBoundingClientRect().top + window.scrollY;
  window.scrollTo(0, top - document.getElementById("controls").offsetHeight);
}

sort.addEventListener("change", arrange);
level.addEventListener("change", arrange);
search.addEventListener("input", filter);
document.getElementById("controls").addEventListener("submit", (event) => event.preventDefault());

const total = { kept: 0, dropped: 0, duplicate: 0 };
const against = data.classes.reduce((sum, own) => sum + own.negatives.length, 0);
for (const own of data.classes) for (const status of Object.keys(total)) total[status] += own.count[status];
document.getElementById("summary").textContent =
  `${counted(data.classes.length, "class")}, ${total.kept} ${data.settings.points} kept, ${total.dropped} dropped, ${total.duplicate} repeated${against ? `, ${counted(against, "negative")}` : ""}. ` +
  `Metric ${data.settings.metric}, scale rule ${data.settings.scale_rule || "none"}.` +
  (data.shown < data.classes.length ? ` The texts of ${counted(data.shown, "class")} are on this page, of the others their names: “--class NAME” of s3clip inspect chooses others.` : "");
const panel = document.getElementById("findings");
panel.querySelector("summary").textContent = `Warnings: ${data.found}`;
panel.querySelector("ol").append(...data.findings.slice(0, MOST_FINDINGS).map((f) =>
  element("li", {}, badge(f[0]), " ", link(f[2]), `: ${f[4]}`)));
if (data.found > Math.min(MOST_FINDINGS, data.findings.length))
  panel.querySelector("ol").append(element("li", { class: "soft" }, `and ${data.found - Math.min(MOST_FINDINGS, data.findings.length)} more, at their classes; sort by warnings`));
arrange();
if (data.open !== null) open(data.open);
