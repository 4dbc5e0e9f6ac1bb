/* The evidence pages: rows are loaded in slices, shown in pages, and computed again. No library. */
"use strict";
const CLASSES = ["Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral"];
const PAGE = 48, READ_AT_ONCE = 20000, BINS = 15, WARM_UP = 5;
const waiting = new Map();
const fer = {
  rows(table, slice, text) { waiting.get(`${table}.${slice}`)?.(text); },
  index(held) { waiting.get("index")(held); },
};

/* ---- reading ---- */
function script(source, key) {
  return new Promise((done, failed) => {
    const before = waiting.get(key);
    waiting.set(key, before ? (held) => { before(held); done(held); } : done);
    const tag = document.createElement("script");
    tag.src = source;
    tag.onerror = () => failed(new Error(`${source} is not here`));
    tag.onload = () => { waiting.delete(key); tag.remove(); };
    document.head.append(tag);
  });
}

/** The cells of a csv, row by row: quotes as RFC 4180 has them. */
function parse(text) {
  if (!text.includes('"')) return text.split("\n").filter(Boolean).map((line) => line.split(","));
  const rows = [];
  let row = [], cell = "", quoted = false, blank = true;
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (quoted && c === '"' && text[i + 1] === '"') { cell += c; i++; }
    else if (c === '"') { quoted = !quoted; blank = false; }
    else if (quoted || (c !== "," && c !== "\n")) { cell += c; blank = false; }
    else {
      row.push(cell);
      cell = "";
      if (c === ",") blank = false;
      else { if (!blank) rows.push(row); row = []; blank = true; }
    }
  }
  if (!blank) rows.push([...row, cell]);
  return rows;
}

class Table {
  constructor(id, about, base) {
    Object.assign(this, about, { id, base, slices: new Map() });
    this.place = Object.fromEntries(about.header.map((name, i) => [name, i]));
  }
  get count() { return Math.max(1, Math.ceil(this.rows / this.size)); }
  text(k) { return script(`${this.base}data/${this.id}.${k}.js`, `${this.id}.${k}`); }
  /** The rows of a slice; of a long table only the last ones stay in memory. */
  slice(k) {
    if (!this.slices.has(k)) {
      if (this.slices.size * this.size >= READ_AT_ONCE) this.slices.delete(this.slices.keys().next().value);
      this.slices.set(k, this.text(k).then((text) => this.parsed(k, text)));
    }
    return this.slices.get(k);
  }
  parsed(k, text) {
    const rows = parse(text.replaceAll("\r\n", "\n"));
    return k ? rows : rows.slice(1);
  }
  async row(i) { return (await this.slice(Math.floor(i / this.size)))[i % this.size]; }
  /** Every row that a term means, slice by slice, so that the page stays awake. */
  async each(term, visit) {
    for (let k = 0; k < this.count; k++) {
      const rows = await this.slice(k);
      rows.forEach((row, j) => { if (meant(this, term, row)) visit(row, k * this.size + j); });
      await new Promise((rest) => setTimeout(rest));
    }
  }
  /** The sha256 of all slices, which are the whole file. */
  async hash() {
    if (!globalThis.crypto?.subtle || !this.sha256) return null;
    const texts = [];
    for (let k = 0; k < this.count; k++) texts.push(await this.text(k));
    const bytes = new TextEncoder().encode(texts.join(""));
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    return [...digest].map((b) => b.toString(16).padStart(2, "0")).join("");
  }
}

function meant(table, term, row) {
  if (term.unlabelled && CLASSES.includes(row[table.place.label])) return false;
  return Object.entries(term.where).every(([column, text]) => row[table.place[column]] === text);
}

/* ---- computing ---- */
function answer(table, term, row) {
  const scaled = CLASSES.map((name, c) => {
    const logit = Math.fround(row[table.place[`logit_${name}`]]);
    return term.weights.length ? logit * term.weights[c] + term.bias[c] : logit / term.temperature;
  });
  const top = Math.max(...scaled);
  const total = Math.log(scaled.reduce((sum, value) => sum + Math.exp(value - top), 0));
  const log = scaled.map((value) => value - top - total), probs = log.map(Math.exp);
  const predicted = probs.indexOf(Math.max(...probs));
  return { y: CLASSES.indexOf(row[table.place.y_true]), predicted, probs, log, confidence: probs[predicted] };
}

const sum = (values) => values.reduce((a, b) => a + b, 0);
/** Not by spreading them: a call takes some hundred thousand arguments at most. */
const largest = (values) => values.reduce((a, b) => Math.max(a, b), 0);
const mean = (values) => sum(values) / values.length;
const wide = (p) => Math.min(BINS - 1, Math.max(0, Math.ceil(p * BINS) - 1));

function miscalibration(p, hit, bins) {
  const gaps = new Float64Array(BINS);
  p.forEach((value, i) => { gaps[bins[i]] += hit[i] - value; });
  return sum([...gaps].map(Math.abs)) / p.length;
}

function confusion(answers) {
  const matrix = CLASSES.map(() => CLASSES.map(() => 0));
  for (const a of answers) matrix[a.y][a.predicted]++;
  return matrix;
}

/** Risk and coverage at each distinct confidence, the highest first. */
function curve(answers) {
  const ranked = [...answers].sort((a, b) => b.confidence - a.confidence), found = [];
  let errors = 0, before = 0;
  ranked.forEach((a, i) => {
    errors += a.y !== a.predicted;
    if (ranked[i + 1]?.confidence === a.confidence) return;
    found.push({ rows: i + 1 - before, coverage: (i + 1) / ranked.length, risk: errors / (i + 1) });
    before = i + 1;
  });
  return found;
}

function metric(key, answers) {
  const [name, part] = key.split("/"), n = answers.length, matrix = confusion(answers);
  const top = answers.map((a) => a.confidence), hits = answers.map((a) => +(a.y === a.predicted));
  const said = (c) => sum(matrix.map((row) => row[c])), there = (c) => sum(matrix[c]);
  const f1 = CLASSES.map((_, c) => (said(c) + there(c) ? (2 * matrix[c][c]) / (said(c) + there(c)) : 0));
  switch (name) {
    case "accuracy": return mean(hits);
    case "macro_f1": return mean(f1);
    case "per_class_f1": return f1[CLASSES.indexOf(part)];
    case "balanced_accuracy":
      return mean(CLASSES.map((_, c) => c).filter(there).map((c) => matrix[c][c] / there(c)));
    case "nll": return -mean(answers.map((a) => a.log[a.y]));
    case "brier": return mean(answers.map((a) => sum(a.probs.map((p, c) => (p - (c === a.y)) ** 2))));
    case "ece": return miscalibration(top, hits, top.map(wide));
    case "adaptive_ece": {
      const sorted = Float64Array.from(top).sort(), first = new Map();
      sorted.forEach((p, i) => { if (!first.has(p)) first.set(p, i); });
      return miscalibration(top, hits, top.map((p) => Math.floor((first.get(p) * BINS) / n)));
    }
    case "classwise_ece":
      return mean(CLASSES.map((_, c) => {
        const p = answers.map((a) => a.probs[c]);
        return miscalibration(p, answers.map((a) => +(a.y === c)), p.map(wide));
      }));
    case "aurc": return sum(curve(answers).map((at) => at.risk * at.rows)) / n;
    case "augrc": {
      let area = 0, x = 0, height = 0;
      for (const at of curve(answers)) {
        const next = at.coverage * at.risk;
        area += ((at.coverage - x) * (next + height)) / 2;
        [x, height] = [at.coverage, next];
      }
      return area;
    }
    case "coverage_at_risk":
      return largest(curve(answers).filter((at) => at.risk <= +part).map((at) => at.coverage));
  }
  throw new Error(`${key} is not known here`);
}

function quantile(values, q) {
  const sorted = Float64Array.from(values).sort(), at = (sorted.length - 1) * q, low = Math.floor(at);
  return sorted[low] + (at - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
}

/** The faces of a session by track, in the order of the log. */
function tracks(faces) {
  const found = new Map();
  for (const face of faces) found.set(face.track, [...(found.get(face.track) ?? []), face]);
  return [...found.values()];
}

const changes = (labels) => labels.filter((label, i) => i && label !== labels[i - 1]).length;

function logged(table, row) {
  const cell = (name) => row[table.place[name]];
  return {
    frame: +cell("frame_index"), time: +cell("time_sec"), found: cell("face_found") === "1",
    track: cell("track_id"), raw: cell("raw_label"), state: cell("state"),
    shown: cell("state") === "label" ? cell("pred_label") : null,
    ms: +cell("frame_ms"), capture: +(cell("capture_ms") || 0),
  };
}

function kpi(key, rows) {
  const frames = [...new Map(rows.map((r) => [r.frame, r])).values()], faces = rows.filter((r) => r.found);
  const timed = frames.slice(WARM_UP).map((f) => f.ms);
  const parts = tracks(faces).flatMap((track) => {
    const cut = [];
    track.forEach((f, i) => (i && f.frame === track[i - 1].frame + 1 ? cut.at(-1).push(f) : cut.push([f])));
    return cut;
  });
  const seconds = sum(parts.map((part) => part.at(-1).time - part[0].time));
  const raw = sum(parts.map((part) => changes(part.map((f) => f.raw))));
  const shown = sum(parts.map((part) => changes(part.map((f) => f.shown).filter((label) => label !== null))));
  const share = (state) => faces.filter((f) => f.state === state).length / faces.length;
  const known = {
    frames: frames.length, faces: faces.length, tracks: tracks(faces).length,
    face_found_rate: new Set(faces.map((f) => f.frame)).size / frames.length,
    frames_timed: timed.length,
    processed_fps: (1e3 * timed.length) / (sum(timed) + sum(frames.slice(WARM_UP).map((f) => f.capture))),
    frame_ms_mean: mean(timed), frame_ms_p50: quantile(timed, 0.5),
    frame_ms_p95: quantile(timed, 0.95), frame_ms_p99: quantile(timed, 0.99),
    track_seconds: seconds, flips_raw: raw, flips_stabilised: shown,
    flips_per_minute_raw: (60 * raw) / seconds, flips_per_minute_stabilised: (60 * shown) / seconds,
    unsure_share: share("unsure"), too_small_share: share("too_small"), unstable_share: share("unstable"),
  };
  return known[key];
}

async function collected(tables, term, visit) {
  const found = [], table = tables[term.table];
  await table.each(term, (row) => found.push(visit(table, term, row)));
  return found;
}

/** What a formula gives; ``figures`` are those of the claim, of which a sum is made. */
async function compute(formula, tables, figures) {
  if (formula.take === "parts") return sum(figures.slice(1).map((f) => f.value));
  if (formula.take === "metric") {
    const side = async (terms) => {
      const runs = [];
      for (const term of terms) runs.push(metric(formula.key, await collected(tables, term, answer)));
      return runs.length ? mean(runs) : 0;
    };
    return (await side(formula.plus)) - (await side(formula.minus));
  }
  if (formula.take === "kpi") {
    return kpi(formula.key, await collected(tables, formula.plus[0], (t, _, row) => logged(t, row)));
  }
  const cells = [];
  for (const term of formula.plus) {
    const table = tables[term.table], place = table.place[formula.key];
    await table.each(term, (row) => cells.push(+row[place]));
  }
  switch (formula.take) {
    case "count": return cells.length;
    case "sum": return sum(cells);
    case "mean": return mean(cells);
    case "min": return cells.reduce((a, b) => Math.min(a, b));
    case "max": return cells.reduce((a, b) => Math.max(a, b));
  }
  throw new Error(`${formula.take} is not known here`);
}

/** Whether a number is the one that the artifact holds, and rounds to the printed one. */
function same(value, figure) {
  const text = figure.printed.replaceAll(",", "").replace("%", "");
  const scale = figure.printed.endsWith("%") ? 100 : 1;
  const half = 0.5 / (scale * 10 ** (text.split(".")[1] ?? "").length);
  const near = 1e-9 * Math.max(1, Math.abs(figure.value));
  return Math.abs(value - figure.value) <= near && Math.abs(value - text / scale) <= half + near;
}

/* ---- showing ---- */
function make(tag, held = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(held)) {
    if (key in node) node[key] = value; else node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** What went wrong, in the place of what was asked for. */
function failed(node, error) {
  node.classList.add("bad");
  node.textContent = `✗ ${error.message}`;
}

const percent = (p) => `${(100 * p).toFixed(1)}%`;
const visible = (text) => text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, "\ufffd");

/** A face: its box of the picture, or why there is none. */
function face(cells, page, side) {
  const frame = make("span", { className: "face" });
  frame.style.width = frame.style.height = `${side}px`;
  const purged = page.purged[cells.sample_id] ?? page.purged[cells.group_id];
  if (purged || !page.faces || !cells.image_path) {
    frame.append(purged ? `purged on ${purged}` : page.faces ? "no picture" : "not shown");
    return frame;
  }
  const path = cells.image_path.split("/").map(encodeURIComponent).join("/");
  const picture = make("img", { src: page.root + path, alt: "", loading: "lazy" });
  picture.onerror = () => frame.replaceChildren(location.protocol === "file:" ? "not here" : "not shown here");
  picture.onload = () => {
    const { naturalWidth: width, naturalHeight: height } = picture;
    const given = cells.bbox_frame === "photo" && cells.bbox_left !== "";
    const [left, top, right, bottom] = given
      ? ["bbox_left", "bbox_top", "bbox_right", "bbox_bottom"].map((name) => +cells[name])
      : [0, 0, width, height];
    const scale = side / Math.max(right - left, bottom - top);
    Object.assign(picture.style, {
      width: `${width * scale}px`, left: `${-left * scale + (side - (right - left) * scale) / 2}px`,
      top: `${-top * scale + (side - (bottom - top) * scale) / 2}px`,
      clipPath: `inset(${top * scale}px ${(width - right) * scale}px ${(height - bottom) * scale}px ${left * scale}px)`,
    });
  };
  frame.append(picture);
  return frame;
}

const named = (table, row) => Object.fromEntries(table.header.map((name, i) => [name, row[i] ?? ""]));

async function cellsOf(table, tables, i) {
  const own = named(table, await table.row(i));
  const faces = tables[table.faces];
  return faces ? { ...named(faces, await faces.row(i)), ...own } : own;
}

/** The rows behind a claim, in pages: what is meant, filtered, and shown. */
class Browser {
  constructor(page, tables, node) {
    Object.assign(this, { page, tables, node, at: 0, cell: null, read: 0 });
    this.terms = page.terms;
    this.form = node.querySelector("form");
    const act = (work) => work.catch((error) => failed(this.node.querySelector(".told"), error));
    this.form.addEventListener("input", (event) => act(this.changed(event.target.name)));
    this.form.addEventListener("submit", (event) => event.preventDefault());
    node.querySelector(".more").addEventListener("click", () => { this.at += PAGE; act(this.show(true)); });
    node.querySelector(".count").addEventListener("click", () => act(this.readAll()));
    act(this.open(0));
  }
  field(name) { return this.form.elements[name].value; }
  get isAnswers() { return this.table.kind === "predictions"; }
  async open(number) {
    this.term = this.terms[number];
    this.table = this.tables[this.term.table];
    Object.assign(this, { found: [], read: 0, at: 0, cell: null, other: null });
    this.form.classList.toggle("plain", !this.isAnswers);
    const others = this.isAnswers ? this.terms.filter((t) => this.tables[t.table].faces === this.table.faces) : [];
    const select = this.form.elements.against;
    select.replaceChildren(make("option", { value: "" }, "any model"), ...others
      .filter((t) => t !== this.term)
      .map((t) => make("option", { value: this.terms.indexOf(t) }, this.tables[t.table].name)));
    if (this.page.compares && number === 0 && select.options[1]) {
      select.value = select.options[1].value;
      this.form.elements.shown.value = "all";
    }
    await this.readSome(this.table.rows <= READ_AT_ONCE ? this.table.count : 1);
  }
  async readAll() { await this.readSome(this.table.count); }
  async readSome(until) {
    const { table, term } = this, against = this.field("against"), own = (this.reading = {});
    const other = against === "" ? null : this.terms[against];
    while (this.read < until) {
      const k = this.read, rows = await table.slice(k);
      const others = other ? await this.tables[other.table].slice(k) : null;
      if (own !== this.reading) return;  // Something else is read since.
      this.read++;
      rows.forEach((row, j) => {
        if (!meant(table, term, row)) return;
        const told = this.isAnswers ? answer(table, term, row) : null;
        if (told && others) told.other = answer(this.tables[other.table], other, others[j]).predicted;
        this.found.push({ i: k * table.size + j, row, told });
      });
      if (k === 0) await this.show();
      else this.node.querySelector(".told").textContent = `reading … ${(this.read * table.size).toLocaleString("en")} rows`;
      await new Promise((rest) => setTimeout(rest));
      if (own !== this.reading) return;
    }
    this.matrix();
    this.sources();
    await this.show();
  }
  async changed(name) {
    this.node.querySelector(".told").classList.remove("bad");
    if (name === "rows") return this.open(+this.field("rows"));
    this.at = 0;
    if (name === "against") Object.assign(this, { found: [], read: 0 });
    return this.readAll();
  }
  matches() {
    const [shown, source, low, text] = ["shown", "source", "confidence", "text"].map((n) => this.field(n));
    const found = this.found.filter(({ row, told }) => {
      if (source && row[this.table.place.source] !== source) return false;
      if (text && !row.some((cell) => cell.toLowerCase().includes(text.toLowerCase()))) return false;
      if (!told) return true;
      if (this.cell && (told.y !== this.cell[0] || told.predicted !== this.cell[1])) return false;
      if (told.other !== undefined && told.other === told.predicted) return false;
      const right = told.y === told.predicted;
      if (!this.cell && ((shown === "wrong" && right) || (shown === "right" && !right))) return false;
      return told.confidence >= +low;
    });
    return this.field("order") === "surest" && this.isAnswers
      ? found.sort((a, b) => b.told.confidence - a.told.confidence) : found;
  }
  async show(more = false) {
    const found = this.matches(), list = this.node.querySelector(".list"), part = found.slice(this.at, this.at + PAGE);
    const whole = this.read >= this.table.count;
    const of = whole ? `of ${this.found.length.toLocaleString("en")}` : `of the first ${this.found.length.toLocaleString("en")} read`;
    this.node.querySelector(".told").textContent =
      `${found.length.toLocaleString("en")} rows ${of}${this.cell ? `, ${CLASSES[this.cell[0]]} called ${CLASSES[this.cell[1]]}` : ""}`;
    this.node.querySelector(".count").hidden = whole;
    this.node.querySelector(".more").hidden = this.at + PAGE >= found.length;
    const asked = (this.asked = {});
    const columns = this.isAnswers ? [] : this.columns();
    const cards = await Promise.all(part.map((entry) => (this.isAnswers ? this.card(entry) : this.line(entry, columns))));
    if (asked !== this.asked) return;
    if (!more) list.replaceChildren();
    if (!this.isAnswers && !more) list.append(this.head(columns));
    (this.isAnswers ? list : list.firstChild.tBodies[0]).append(...cards);
    list.classList.toggle("cards", this.isAnswers);
  }
  link(i) { return `${this.page.up}face.html#t=${this.table.id}&r=${i}`; }
  async card({ i, told }) {
    const cells = await cellsOf(this.table, this.tables, i), right = told.y === told.predicted;
    const words = [make("b", {}, right ? `✓ ${CLASSES[told.y]}` : `✗ ${CLASSES[told.predicted]}`)];
    if (!right) words.push(make("span", {}, `label ${CLASSES[told.y]}`));
    if (told.other !== undefined) words.push(make("span", {}, `other: ${CLASSES[told.other]}`));
    words.push(make("small", {}, `${percent(told.confidence)}, ${visible(cells.source)}`));
    return make("a", { className: right ? "card right" : "card wrong", href: this.link(i) },
      face(cells, this.page, 72), make("span", { className: "words" }, ...words));
  }
  /** The columns that tell rows apart, and those that were asked for. */
  columns() {
    const some = this.found.slice(0, 500), told = (i) => new Set(some.map(({ row }) => row[i])).size > 1;
    return this.table.header.filter((name, i) => (told(i) || some.length < 2 || name in this.term.where)
      && name !== "image_path" && !name.startsWith("bbox_") && !name.startsWith("prob_")).slice(0, 12);
  }
  head(columns) {
    const cells = [...(this.table.place.image_path === undefined ? [] : ["face"]), ...columns];
    return make("table", {}, make("thead", {}, make("tr", {}, ...cells.map((name) => make("th", { scope: "col" }, name)))), make("tbody"));
  }
  async line({ i, row }, columns) {
    const cells = named(this.table, row), first = this.table.place.image_path === undefined ? [] : [
      make("td", {}, make("a", { href: this.link(i), title: "this face" }, face(cells, this.page, 48)))];
    return make("tr", {}, ...first, ...columns.map((name) => make("td", {}, visible(cells[name]))));
  }
  sources() {
    const at = this.table.place.source, select = this.form.elements.source, kept = select.value;
    select.parentNode.hidden = at === undefined;
    const names = at === undefined ? [] : [...new Set(this.found.map(({ row }) => row[at]))].sort();
    select.replaceChildren(make("option", { value: "" }, "every source"), ...names.map((n) => make("option", { value: n }, n)));
    select.value = names.includes(kept) ? kept : "";
  }
  matrix() {
    const box = this.node.querySelector(".matrix");
    box.hidden = !this.isAnswers;
    this.node.querySelector(".timeline").replaceChildren(...(this.table.kind === "session" ? timeline(this.table, this.found) : []));
    if (!this.isAnswers) return;
    const counts = confusion(this.found.map(({ told }) => told));
    const head = make("tr", {}, make("th", { scope: "col" }, "label \\ said"), ...CLASSES.map((c) => make("th", { scope: "col" }, c)));
    const rows = CLASSES.map((name, y) => {
      const all = sum(counts[y]) || 1;
      return make("tr", {}, make("th", { scope: "row" }, name), ...CLASSES.map((said, p) => {
        const n = counts[y][p], share = n / all;
        const button = make("button", { type: "button", disabled: !n, title: `${n} ${name} called ${said}` }, n ? String(n) : "·");
        const pressed = () => String(this.cell?.[0] === y && this.cell[1] === p);
        button.setAttribute("aria-pressed", pressed());
        button.onclick = () => {
          this.cell = pressed() === "true" ? null : [y, p];
          this.at = 0;
          box.querySelectorAll("button").forEach((b) => b.setAttribute("aria-pressed", String(b === button && !!this.cell)));
          this.show();
        };
        const cell = make("td", { className: y === p ? "hit" : "miss" }, button);
        cell.style.setProperty("--share", n ? (0.12 + 0.6 * share).toFixed(2) : "0");
        return cell;
      }));
    });
    box.querySelector("table").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
  }
}

/** What each track was called over time: raw above, stabilised below. */
function timeline(table, found) {
  const faces = found.map(({ row }) => logged(table, row)).filter((f) => f.found);
  const end = largest(found.map(({ row }) => +row[table.place.time_sec])) || 1;
  const draw = (tag, held) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(held)) node.setAttribute(key, value);
    return node;
  };
  const legend = make("p", { className: "legend" }, ...CLASSES.map((c, i) => make("span", { className: `class${i}` }, c)),
    make("span", { className: "unsure" }, "unsure"));
  return [legend, ...tracks(faces).map((track) => {
    const svg = draw("svg", { viewBox: "0 0 1000 34", preserveAspectRatio: "none", role: "img" });
    svg.setAttribute("aria-label", `face ${track[0].track}: raw label above, stabilised below`);
    const strip = (label, y) => {
      let from = 0;
      track.forEach((f, i) => {
        const next = track[i + 1];
        if (next && label(next) === label(f) && next.frame === f.frame + 1) return;
        const x = (1000 * track[from].time) / end, width = (1000 * ((next && next.frame === f.frame + 1 ? next : f).time - track[from].time)) / end;
        const part = draw("rect", { x, y, width: Math.max(width, 1), height: 16, class: label(f) ? `class${CLASSES.indexOf(label(f))}` : "unsure" });
        const told = draw("title", {});
        told.textContent = `${label(f) ?? "unsure"}, ${track[from].time.toFixed(2)} to ${f.time.toFixed(2)} s`;
        part.append(told);
        svg.append(part);
        from = i + 1;
      });
    };
    strip((f) => f.raw, 0);
    strip((f) => f.shown, 18);
    return make("div", { className: "track" }, make("small", {}, `face ${track[0].track}`), svg);
  })];
}

/** Compute each number that rows give, and say of how many it is the printed one, and of how many nobody knows. */
async function computeAll(page, tables, told) {
  const known = [...page.figures.entries()].filter(([, figure]) => figure.formula);
  const cells = known.map(([i]) => document.querySelector(`#again-${i}`));
  cells.forEach((cell) => Object.assign(cell, { textContent: "…", className: "n" }));
  let other = 0;
  for (const [place, [, figure]] of known.entries()) {
    const value = await compute(figure.formula, tables, page.figures), fits = same(value, figure);
    Object.assign(cells[place], { textContent: `${fits ? "✓" : "✗"} ${value}`, className: fits ? "n good" : "n bad" });
    other += !fits;
  }
  const used = new Set(known.flatMap(([, { formula }]) => [...formula.plus, ...formula.minus]).map((term) => term.table));
  const hashed = [];
  for (const id of used) hashed.push([tables[id], await tables[id].hash()]);
  const foreign = hashed.filter(([table, hash]) => hash !== null && hash !== table.sha256);
  const lacking = page.figures.length - known.length, from = used.size ? "rows" : "parts";
  const words = [other ? `✗ The ${from} do not give ${other} of ${known.length} printed numbers.`
    : known.length > 1 ? `✓ The ${from} give ${known.length} printed numbers.` : `✓ The ${from} give the printed number.`];
  if (lacking) words.push(`${lacking} of ${page.figures.length} cannot be computed here.`);
  if (foreign.length) words.push(`✗ ${foreign.map(([t]) => t.file).join(", ")}: other bytes than the record's.`);
  else if (hashed.length && hashed.every(([, hash]) => hash)) words.push("Their bytes have the sha256 of the record.");
  told.className = other || foreign.length ? "bad" : lacking ? "warn" : "good";
  told.textContent = words.join(" ");
}

/* ---- the page of a face ---- */
async function facePage(page) {
  const held = await script("data/index.js", "index"), at = new URLSearchParams(location.hash.slice(1));
  const tables = opened(held.tables, ""), table = tables[at.get("t")], i = +at.get("r"), box = document.querySelector("#face");
  if (!table || !(i < table.rows)) { box.textContent = "No such row here: open a face from the page of a claim."; return; }
  const cells = await cellsOf(table, tables, i), source = cells.source ?? cells.source_a ?? "", root = held.roots[source];
  document.querySelector("h1").textContent = `${cells.label || cells.y_true} of ${visible(source)}`;
  const raw = root && cells.orig_image ? `${root}/${cells.orig_image}` : cells.orig_image;
  const manifests = await manifestsOf(table, i);
  const told = { label: cells.label || cells.y_true, split: cells.split, source, sample: cells.sample_id, group: cells.group_id, "in manifests": manifests.join(", "), "same face in other splits": cells.twin_in, "picture of the pool": cells.image_path, "raw file": raw, "row": `${i + 1} of ${table.asset} ${table.file}` };
  const list = make("dl", {}, ...Object.entries(told).filter(([, v]) => v).flatMap(([k, v]) => {
    const text = visible(v);
    const linked = k === "raw file" && root && location.protocol === "file:";
    return [make("dt", {}, k), make("dd", {}, linked ? make("a", { href: `file://${encodeURI(raw).replace(/[?#]/g, encodeURIComponent)}` }, text) : text)];
  }));
  box.replaceChildren(face(cells, { ...page, ...held, root: "../" }, 192), list);
  if (cells.votes) {
    const votes = cells.votes.split(";"), all = sum(votes.map(Number)) || 1;
    document.querySelector("#votes").append(make("h2", {}, "Votes"), bars(CLASSES.map((c, k) => [c, +votes[k] / all, votes[k]])));
  }
  await modelsOf(held, tables, table, i);
  await claimsOf(held, tables, table, i, cells, new Set(manifests.map((text) => text.split(" ")[0])));
}

/** The manifests that have the face of a row, each with its split. */
async function manifestsOf(table, i) {
  const id = table.faces || table.id;
  if (!table.faces && (table.place.sample_id === undefined || table.place.source === undefined)) return [];
  const [kinds, letters] = await script(`data/${id}.in.js`, `${id}.in`);
  return kinds[letters.charCodeAt(i) - 0x100];
}

/** The claims on a face, after each table was looked through for it. */
async function claimsOf(held, tables, table, i, cells, manifests) {
  const box = document.querySelector("#claims"), places = {};
  for (const other of Object.values(tables)) {
    box.textContent = `looking through ${other.asset} ${other.file} …`;
    const row = await rowIn(other, table, i, cells);
    if (row) places[other.id] = row;
  }
  const counts = held.claims.map((claim) => [claim, held.terms[claim.terms].some((term) => places[term.table] && meant(tables[term.table], term, places[term.table]))]);
  const link = (claim) => make("li", { className: claim.status === "grounded" ? "" : "bad" },
    make("a", { href: claim.page }, visible(claim.sentence)), claim.status === "grounded" ? "" : ` (${claim.status.replace("_", " ")})`);
  const say = (title, claims) => claims.length ? [make("h2", {}, `${title} (${claims.length})`), make("ul", {}, ...claims.map(link))] : [];
  box.replaceChildren(
    ...say("Claims that count this face", counts.filter(([c, own]) => own && c.claimed).map(([c]) => c)),
    ...say("Other claims made of a manifest with it", counts.filter(([c, own]) => !own && c.claimed && held.assets[c.assets].some((asset) => manifests.has(asset))).map(([c]) => c)),
    ...say("Other numbers of the report that count it", counts.filter(([c, own]) => own && !c.claimed).map(([c]) => c)));
}

/** The row of a face in another table: at the same place, or wherever its sample stands. */
async function rowIn(other, table, i, cells) {
  if (other === table || (other.faces && other.faces === table.faces)) return other.row(i);
  if (other.place.sample_id === undefined || !cells.sample_id) return null;
  for (let k = 0; k < other.count; k++) {
    const text = await other.text(k);
    if (!text.includes(cells.sample_id)) continue;
    const found = other.parsed(k, text).find((row) => row[other.place.sample_id] === cells.sample_id && row[other.place.source] === cells.source);
    if (found) return found;
  }
  return null;
}

function bars(rows) {
  return make("table", { className: "bars" }, make("tbody", {}, ...rows.map(([name, share, text]) => {
    const bar = make("span", { className: "bar" });
    bar.style.width = percent(share);
    return make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, bar), make("td", { className: "n" }, text));
  })));
}

async function modelsOf(held, tables, table, i) {
  const models = table.faces ? Object.values(tables).filter((t) => t.faces === table.faces && t.kind === "predictions") : [];
  if (!models.length) return;
  const rows = [];
  for (const model of models) {
    const term = { temperature: model.temperature, weights: [], bias: [] };
    const told = answer(model, term, await model.row(i)), right = told.y === told.predicted;
    rows.push(make("tr", {}, make("th", { scope: "row" }, model.name), make("td", { className: right ? "good" : "bad" }, `${right ? "✓" : "✗"} ${CLASSES[told.predicted]}`),
      make("td", { className: "n" }, percent(told.confidence)), make("td", { className: "n" }, percent(told.probs[told.y]))));
  }
  const head = ["model", "says", "sure", "of the label"].map((name) => make("th", { scope: "col" }, name));
  document.querySelector("#models").append(make("h2", {}, "What each model says"), make("div", { className: "scroll", tabIndex: 0 },
    make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows))), make("p", { className: "dim" }, "Probabilities are scaled by each model's own temperature."));
}

const opened = (tables, base) => Object.fromEntries(Object.entries(tables).map(([id, about]) => [id, new Table(id, about, base)]));

/* Served beside Dagster, a step leads to its asset's page: a browser opens no file from there. */
if (location.protocol !== "file:") {
  document.querySelectorAll("a[data-asset]").forEach((a) => { a.href = `/fer/assets/${a.dataset.asset}`; });
}
const page = JSON.parse(document.querySelector("#page").textContent);
if (page.kind === "face") {
  facePage(page).catch((error) => failed(document.querySelector("#face"), error));
  addEventListener("hashchange", () => location.reload());
} else if (page.kind === "claim") {
  const tables = opened(page.tables, "../"), rows = document.querySelector("#rows"), again = document.querySelector("#again");
  if (rows) new Browser(page, tables, rows);
  again?.addEventListener("click", async () => {
    const told = document.querySelector("#told");
    Object.assign(told, { className: "", textContent: "computing …" });
    again.disabled = true;
    await computeAll(page, tables, told).catch((error) => failed(told, error));
    again.disabled = false;
  });
} else if (page.kind === "index") {
  const field = document.querySelector("#find");
  field.addEventListener("input", () => {
    document.querySelectorAll("tbody tr").forEach((row) => { row.hidden = !row.textContent.toLowerCase().includes(field.value.toLowerCase()); });
  });
}
