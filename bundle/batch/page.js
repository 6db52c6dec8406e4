"use strict";
// The gallery of a report. Cards are made as one scrolls; scan and map are two halves of one picture, laid over each other.
const facts = JSON.parse(document.getElementById("facts").textContent);
const records = JSON.parse(document.getElementById("records").textContent);
const CHUNK = 60;
const at = id => document.getElementById(id);
const make = (tag, attributes = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children);
  return element;
};
// Without odds the score is the highest value of the map, which ends with its table.
const scoreOf = row => facts.odds ? row.score.toFixed(2) : atMost(row.score, row.end);
const atMost = (value, end) => (end !== null && value >= end ? "> " : "") + value.toFixed(2);
let chosen = [], made = 0, current = -1;

// A sheet stands in the page as Base64 or is a file beside it; as a blob it is decoded once, however often it is shown.
function sheetOf(row) {
  if (row.url === undefined) {
    if (row.picture === null) row.url = null;
    else if (row.embedded) {
      const bytes = Uint8Array.from(atob(row.picture), letter => letter.charCodeAt(0));
      row.url = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
    } else row.url = row.picture;
  }
  return row.url;
}

function sliceOf(row, number) {
  const count = row.slices.length, [width, height] = row.tile;
  const box = make("div", { className: "slice" });
  box.style.aspectRatio = `${width} / ${height}`;
  for (const [half, name] of [[0, "grey"], [1, "heat"]]) {
    const layer = make("div", { className: name });
    layer.style.backgroundImage = `url("${sheetOf(row)}")`;
    layer.style.backgroundSize = `${100 * count}% 200%`;
    layer.style.backgroundPosition = `${count > 1 ? 100 * number / (count - 1) : 0}% ${100 * half}%`;
    box.append(layer);
  }
  return box;
}

function cardOf(row, place) {
  const card = make("button", { className: `card ${row.state}`, type: "button" });
  card.dataset.name = row.name;
  if (row.state === "done") {
    if (sheetOf(row)) card.append(sliceOf(row, 0));
    card.append(make("strong", { textContent: row.name }), `${scoreOf(row)}${row.contrast ? ", " + row.contrast : ""}`,
      make("span", { className: row.findings ? "words" : "words none", textContent: row.words }));
    card.addEventListener("click", () => open(place));
  } else {
    card.append(make("strong", { textContent: row.name }), `${row.state}: ${row.reason}${row.remedy ? ". " + row.remedy : ""}`);
    card.disabled = true;
  }
  return card;
}

function lineOf(row, place) {
  const link = make("a", { textContent: row.name, href: "#" });
  link.addEventListener("click", event => { event.preventDefault(); open(place); });
  const number = text => make("td", { className: "number", textContent: text });
  return make("tr", {}, make("td", {}, row.state === "done" ? link : row.name),
    ...(row.state === "done"
      ? [number(scoreOf(row)), number(row.findings), number(row.ml.toFixed(2)), make("td", { textContent: row.contrast }), number(row.seconds.toFixed(1))]
      : [make("td", { colSpan: 5, textContent: `${row.state}: ${row.reason}` })]));
}

function more() {
  const table = at("shape").value === "table";
  const part = chosen.slice(made, made + CHUNK).map((row, number) => (table ? lineOf : cardOf)(row, made + number));
  (table ? at("cases").tBodies[0] : at("gallery")).append(...part);
  made += part.length;
}

// While the end of what is made is near, more is made.
new IntersectionObserver(entries => {
  if (entries.some(entry => entry.isIntersecting)) fill();
}, { rootMargin: "800px" }).observe(at("more"));

function fill() {
  while (made < chosen.length && at("more").getBoundingClientRect().top < innerHeight + 800) more();
}

let falling = true;
function choose() {
  const wanted = at("search").value.toLowerCase(), least = Number(at("least").value), order = at("order").value;
  chosen = records.filter(row => (!at("state").value || row.state === at("state").value)
    && (!at("contrast").value || row.contrast === at("contrast").value)
    && row.name.toLowerCase().includes(wanted)
    && (least <= 0 || (row.state === "done" && row.score >= least)));
  const value = row => row[order] ?? -Infinity;
  chosen.sort((a, b) => order === "name" ? a.name.localeCompare(b.name) : value(b) - value(a) || a.name.localeCompare(b.name));
  if (!falling) chosen.reverse();
  at("gallery").replaceChildren();
  at("cases").tBodies[0].replaceChildren();
  at("cases").hidden = at("shape").value !== "table";
  made = 0;
  fill();
  at("count").textContent = `${chosen.length} of ${records.length}`;
}

function options() {
  for (const [id, values] of [["state", records.map(row => row.state)], ["contrast", records.map(row => row.contrast)]]) {
    const different = [...new Set(values.filter(Boolean))].sort();
    at(id).append(...different.map(value => make("option", { value, textContent: value })));
    if (id === "contrast") at("contrast-label").hidden = !different.length;
  }
  for (const id of ["search", "least"]) at(id).addEventListener("input", choose);
  for (const id of ["state", "contrast", "order", "shape"]) at(id).addEventListener("change", () => { falling = true; choose(); });
  document.querySelectorAll("#cases th[data-sort]").forEach(head => head.addEventListener("click", () => {
    falling = at("order").value === head.dataset.sort ? !falling : true;
    at("order").value = head.dataset.sort;
    choose();
  }));
}

// Shares of scans in twenty bins of the case score; healthy people's as an outline.
function histogram() {
  const scores = records.filter(row => row.state === "done").map(row => row.score);
  if (!facts.calibrated || !scores.length) return;
  const BINS = 20, top = Math.max(facts.top, ...scores), wide = 600, high = 110;
  const shares = values => {
    const counts = new Array(BINS).fill(0);
    for (const value of values) counts[Math.min(BINS - 1, Math.floor(value / top * BINS))] += 1 / values.length;
    return counts;
  };
  const mine = shares(scores), theirs = facts.healthy.length ? shares(facts.healthy) : [];
  const most = Math.max(...mine, ...theirs), x = bin => bin * wide / BINS, y = share => high - share / most * (high - 10);
  const bars = mine.map((share, bin) => `<rect class="batch" x="${x(bin) + 1}" y="${y(share)}" width="${wide / BINS - 2}" height="${high - y(share)}"/>`);
  const outline = theirs.map((share, bin) => `${bin ? "L" : "M"}${x(bin)} ${y(share)}H${x(bin + 1)}`).join("");
  const marks = [...Array(Math.floor(top) + 1).keys()].map(value => `<text x="${value / top * wide}" y="${high + 14}" text-anchor="middle">${value}</text>`);
  at("histogram").setAttribute("viewBox", `-10 0 ${wide + 20} ${high + 20}`);
  at("histogram").innerHTML = `${bars.join("")}<path class="healthy" d="${outline}"/><line x1="0" x2="${wide}" y1="${high}" y2="${high}"/>${marks.join("")}`;
  at("scores").hidden = false;
}

function fromThreshold() {
  const from = Number(at("threshold").value), table = [];
  for (let level = 0; level < 256; level++) table.push(level / facts.levels >= from - 1e-6 ? 1 : 0);
  at("heat-from").setAttribute("tableValues", table.join(" "));
  at("threshold-value").textContent = from.toFixed(1);
  document.documentElement.style.setProperty("--opacity", at("opacity").value);
  at("opacity-value").textContent = at("opacity").value;
}

function open(place) {
  const row = chosen[place];
  if (!row || row.state !== "done") return;
  current = place;
  at("case").hidden = false;
  document.body.style.overflow = "hidden";
  at("case-name").textContent = row.name;
  at("case-words").textContent = row.words[0].toUpperCase() + row.words.slice(1) + ".";
  at("case-facts").textContent = `${facts.odds ? "Case score" : "Highest value"} ${scoreOf(row)}`
    + (row.findings ? `, the largest finding of ${row.ml.toFixed(2)} ml` : "")
    + (row.left_out ? `. Left out: ${row.left_out} smaller or fainter places, as healthy scans have them` : "")
    + (row.notes ? `. Note: ${row.notes}` : "")
    + (row.contrast ? `. Contrast: ${row.contrast}` + (row.sure === null ? "" : ` (${Math.round(100 * row.sure)} % sure)`) : "") + ".";
  const figures = sheetOf(row) ? row.slices.map((slice, number) => make("figure", {}, sliceOf(row, number),
    make("figcaption", { className: "quiet", textContent: captionOf(row, slice) }))) : [];
  figures.forEach((figure, number) => { figure.id = `slice-${row.slices[number]}`; });
  at("slices").replaceChildren(...figures);
  at("case-more").replaceChildren(...contents(row));
  at("case").scrollTop = 0;
  location.hash = encodeURIComponent(row.name);
}

function captionOf(row, slice) {
  const ranks = row.through.flatMap((one, number) => nearest(row, one) === slice ? [number + 1] : []);
  return `slice ${slice}` + (ranks.length ? `, finding ${ranks.join(", ")}` : "");
}

// The slice that is shown nearest to one.
function nearest(row, slice) {
  return row.slices.reduce((best, one) => Math.abs(one - slice) < Math.abs(best - slice) ? one : best);
}

function lead(row, number) {
  const figure = at(`slice-${nearest(row, row.through[number])}`);
  if (!figure) return;
  figure.scrollIntoView({ block: "center" });
  document.querySelectorAll("#slices figure").forEach(one => one.classList.toggle("lead", one === figure));
}

function contents(row) {
  const parts = [];
  if (row.enface) parts.push(make("p", { className: "quiet", textContent: "The volume from the front, a pixel an A-scan." }),
    make("img", { alt: `${row.name} from the front`, src: row.embedded ? `data:image/png;base64,${row.enface}` : row.enface }));
  if (row.details.length) {
    const head = make("tr", {}, ...["rank", "where", ...(facts.odds ? ["how rare"] : []), "volume, ml", "peak", "mean", "centre, RAS mm", "voxel, from 0"]
      .map(text => make("th", { textContent: text })));
    const lines = row.details.map((one, number) => {
      const line = make("tr", { title: "show its slice", tabIndex: 0 }, ...[one.rank, one.where, ...(facts.odds ? [one.odds] : []), one.volume_ml.toFixed(2),
        atMost(one.peak, row.end), one.mean.toFixed(2), one.centre_mm.map((mm) => mm.toFixed(1)).join(", "), one.centre_voxel.join(", ")]
        .map(text => make("td", { textContent: text })));
      line.addEventListener("click", () => lead(row, number));
      line.addEventListener("keydown", event => { if (event.key === "Enter") lead(row, number); });
      return line;
    });
    parts.push(make("table", { id: "findings" }, make("thead", {}, head), make("tbody", {}, ...lines)));
    if (row.findings > row.details.length) parts.push(make("p", { className: "quiet", textContent: `The first ${row.details.length} of ${row.findings}.` }));
  } else parts.push(make("p", { className: "quiet", textContent: facts.odds ? "Nothing beyond what healthy people have: the slices are a plain look through the scan."
    : "Nothing above the threshold." }));
  const volumes = document.querySelector(`script[data-volumes="${CSS.escape(row.name)}"]`);
  if (volumes) {
    const button = make("button", { textContent: "Show the volumes", id: "show-volumes" });
    button.addEventListener("click", () => showVolumes(button, JSON.parse(volumes.textContent)));
    parts.push(make("p", {}, button));
  }
  return parts;
}

async function showVolumes(button, volumes) {
  button.disabled = true;
  const canvas = make("canvas");
  button.parentElement.after(make("div", { className: "viewer" }, canvas));
  const viewer = new niivue.Niivue({ backColor: [0, 0, 0, 1], show3Dcrosshair: true, isColorbar: true, loadingText: "", multiplanarLayout: 2 });
  await viewer.attachToCanvas(canvas);
  const load = (base64, name, style) => niivue.NVImage.loadFromBase64({ base64, name, ...style });
  viewer.addVolume(await load(volumes.scan, "scan.nii.gz", { colormap: "gray" }));
  viewer.addVolume(await load(volumes.map, "map.nii.gz", { colormap: "inferno", cal_min: 1, cal_max: 4, opacity: 0.6 }));
  canvas.dataset.ready = "yes";
}

function close() {
  at("case").hidden = true;
  document.body.style.overflow = "";
  history.replaceState(null, "", location.pathname + location.search);
  current = -1;
}

// The next scan that was mapped, in the order of the gallery.
function step(by) {
  for (let place = current + by; place >= 0 && place < chosen.length; place += by) {
    if (chosen[place].state === "done") return open(place);
  }
}

addEventListener("keydown", event => {
  if (at("case").hidden || event.target.matches("input[type=search], input[type=number], input[type=range], select")) return;
  if (event.key === "ArrowRight") step(1);
  else if (event.key === "ArrowLeft") step(-1);
  else if (event.key === "Escape") close();
  else if (event.key === " " && event.target.tagName !== "BUTTON") at("opacity").value = Number(at("opacity").value) ? 0 : 0.6, fromThreshold();
  else return;
  event.preventDefault();
});
at("previous").addEventListener("click", () => step(-1));
at("next").addEventListener("click", () => step(1));
at("close").addEventListener("click", close);
for (const id of ["threshold", "opacity"]) at(id).addEventListener("input", fromThreshold);
options();
histogram();
fromThreshold();
choose();
if (location.hash) open(chosen.findIndex(row => row.name === decodeURIComponent(location.hash.slice(1))));
