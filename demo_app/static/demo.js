// The page of the demo. One frame is on its way at a time: what the camera gives meanwhile is
// skipped, so nothing queues and what is shown is never old.
"use strict";

const byId = (id) => document.getElementById(id);
const video = byId("video");
const boxes = byId("boxes");
const WIDEST_PX = 640;
const QUALITY = 0.85;
const LINE_S = 10;
const SAY_EVERY_MS = 2000;
const STAGES = {
  capture: "Decode", detect: "Find faces", align: "Cut out", classify: "Classify",
  smooth: "Smooth", draw: "Reply",
};

// Each setting: its name, unit, and the keys that lower and raise it.
const SETTINGS = {
  ema_tau_s: ["Average over", " s", 2, "[", "]"],
  hysteresis_delta: ["Hysteresis", "", 2, "-", "="],
  vote_s: ["Vote over", " s", 1, "v", "b"],
  vote_share: ["Share of votes", "", 2, "n", "m"],
  unsure_below: ["Unsure below", "", 2, "k", "l"],
};

// What is shown of a recording's key figures: each name, and whether it is a share.
const FIGURES = {
  frames: ["Frames", false], faces: ["Faces", false], tracks: ["Tracks", false],
  face_found_rate: ["Frames with a face", true],
  flips_per_minute_raw: ["Changes a minute, raw", false],
  flips_per_minute_stabilised: ["Changes a minute, shown", false],
  unsure_share: ["Unsure", true], too_small_share: ["Too small", true], unstable_share: ["Unstable", true],
  manual_accuracy_raw: ["Right by your labels, raw", true],
  manual_accuracy_stabilised: ["Right by your labels, shown", true],
};

const page = {
  socket: null, onTheWay: false, paused: false, recording: false, replaying: false, asked: 0,
  folder: null, classes: [], bars: [],
  line: [], trips: [], said: "", saidAt: 0, last: null, retries: 0,
};

async function load() {
  const about = await (await fetch("/about")).json();
  page.classes = about.classes;
  byId("model").textContent = about.model;
  byId("out").textContent = about.out;
  for (const [index, name] of about.classes.entries()) {
    const row = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    const key = document.createElement("kbd");
    key.textContent = String(index + 1);
    button.append(key, name);
    button.addEventListener("click", () => label(index));
    const bar = document.createElement("div");
    bar.className = "bar";
    bar.append(document.createElement("i"));
    const value = document.createElement("span");
    value.className = "value";
    value.textContent = "–";
    row.append(button, bar, value);
    byId("bars").append(row);
    page.bars.push({ button, fill: bar.firstChild, value });
  }
  for (const [key, [name, , , less, more]] of Object.entries(SETTINGS)) {
    const row = document.createElement("div");
    const title = document.createElement("dt");
    const field = document.createElement("dd");
    const value = document.createElement("output");
    value.id = `setting-${key}`;
    value.textContent = "–";
    title.textContent = `${name} (keys ${less} ${more})`;
    field.append(turner("−", `Lower: ${name}`, less), value, turner("+", `Raise: ${name}`, more));
    row.append(title, field);
    byId("settings").append(row);
  }
}

function turner(text, name, key) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = text;
  button.setAttribute("aria-label", name);
  button.addEventListener("click", () => command({ type: "press", key }));
  return button;
}

async function start() {
  fault("");
  byId("start").disabled = true;
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({
      video: { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: "user" },
      audio: false,
    });
    await video.play();
  } catch (error) {
    byId("start").disabled = false;
    fault(cameraFault(error));
    return;
  }
  const [track] = video.srcObject.getVideoTracks();
  track.addEventListener("ended", () => stopped("The camera went away. Plug it in and start again."));
  byId("start-cover").hidden = true;
  document.querySelector(".picture").style.aspectRatio = `${video.videoWidth} / ${video.videoHeight}`;
  byId("pause").disabled = false;
  byId("record").disabled = false;
  connect();
}

function cameraFault(error) {
  if (!navigator.mediaDevices) return "This page has no camera: open it as 127.0.0.1 or localhost.";
  const known = {
    NotAllowedError: "The browser was not allowed to use the camera. Allow it and start again.",
    NotFoundError: "There is no camera. Plug one in and start again.",
    NotReadableError: "The camera is in use by another program. Close that and start again.",
  };
  return known[error.name] || `The camera cannot be used: ${error.message}`;
}

function connect() {
  const socket = new WebSocket(`ws://${location.host}/stream`);
  socket.binaryType = "arraybuffer";
  page.socket = socket;
  page.asked = 0;
  page.onTheWay = false;
  page.folder = null; // What was recorded before belongs to the connection that is gone.
  socket.addEventListener("open", () => { page.retries = 0; fault(""); next(); });
  socket.addEventListener("message", (event) => receive(JSON.parse(event.data)));
  socket.addEventListener("close", (event) => {
    if (page.socket !== socket) return;
    endReplay();
    setRecording(false);
    if (event.code === 1008 || event.code === 1013 || page.retries >= 5) {
      stopped(event.reason || "The program on this computer has gone. Start 'fer demo web' again.");
      return;
    }
    page.retries += 1;
    fault("The connection broke; trying again…");
    setTimeout(connect, 500 * page.retries);
  });
}

function stopped(why) {
  const socket = page.socket;
  endReplay();
  page.socket = null;
  page.asked = 0;
  byId("recorded").hidden = true;
  if (socket) socket.close();
  for (const track of video.srcObject ? video.srcObject.getTracks() : []) track.stop();
  byId("start-cover").hidden = false;
  byId("start").disabled = false;
  byId("pause").disabled = true;
  byId("record").disabled = true;
  boxes.getContext("2d").clearRect(0, 0, boxes.width, boxes.height);
  setRecording(false);
  setNow("none", "Stopped", "");
  fault(why);
}

// A new picture of the camera wakes this up; a hidden page gets none, and sends none.
function next() {
  if (!page.socket || page.paused || page.replaying) return;
  if ("requestVideoFrameCallback" in video) video.requestVideoFrameCallback(send);
  else requestAnimationFrame(send);
}

const sheet = document.createElement("canvas");

function send() {
  const socket = page.socket;
  if (!socket || socket.readyState !== WebSocket.OPEN || page.onTheWay || page.paused || page.replaying) return;
  const scale = Math.min(1, WIDEST_PX / Math.max(video.videoWidth, 1));
  sheet.width = Math.max(1, Math.round(video.videoWidth * scale));
  sheet.height = Math.max(1, Math.round(video.videoHeight * scale));
  sheet.getContext("2d", { alpha: false }).drawImage(video, 0, 0, sheet.width, sheet.height);
  page.onTheWay = true;
  const taken = performance.now();
  sheet.toBlob(async (blob) => {
    if (!blob || page.socket !== socket) { page.onTheWay = false; next(); return; }
    const message = new Uint8Array(8 + blob.size);
    new DataView(message.buffer).setFloat64(0, taken, true);
    message.set(new Uint8Array(await blob.arrayBuffer()), 8);
    if (socket.readyState === WebSocket.OPEN) socket.send(message);
  }, "image/jpeg", QUALITY);
}

function receive(reply) {
  if (reply.type === "settings") {
    setRecording(reply.recording);
    mark(reply.manual);
    for (const [key, [, unit, digits]] of Object.entries(SETTINGS)) {
      setText(byId(`setting-${key}`), number(reply.parameters[key], digits, unit));
    }
    if (!reply.folder && page.folder) setText(byId("stored"), "The recording is deleted.");
    if (reply.folder) setText(byId("stored"), (reply.recording ? "Recording into " : "Stored in ") + reply.folder);
    page.folder = reply.folder;
    byId("recorded").hidden = reply.recording || !reply.folder;
    byId("warning").hidden = !reply.warning;
    setText(byId("warning"), reply.warning || "");
    return;
  }
  if (reply.type === "replay" || reply.type === "replayed") {
    page.asked = Math.max(0, page.asked - 1);
    if (page.asked) return; // Of a replay that was stopped meanwhile.
    if (reply.type === "replayed") endReplay();
    else if (page.replaying) again(reply);
    return;
  }
  if (reply.type === "score") { scores(reply.figures); return; }
  if (reply.type === "error") {
    fault(reply.fix ? `${reply.what}. ${reply.fix}` : reply.what);
    if (page.replaying) page.asked = Math.max(0, page.asked - 1);
    endReplay();
    page.onTheWay = false;
    next();
    return;
  }
  page.onTheWay = false;
  if (page.replaying) return; // A camera's frame that was on its way when the replay began.
  next();
  page.last = reply;
  if (reply.recording !== page.recording) setRecording(reply.recording);
  page.trips.push(performance.now() - reply.sent);
  if (page.trips.length > 30) page.trips.shift();
  show(reply);
}

function show(reply) {
  const main = reply.faces.find((face) => face.id === reply.main);
  const count = reply.faces.length;
  if (!main) setNow("none", "No face", "");
  else {
    const which = count > 1 ? `face ${main.number} of ${count}` : "";
    const beside = main.status === "label" ? [percent(main.confidence), which] : [which];
    const said = { label: main.label, unsure: "Unsure", too_small: "Too small", unstable: "Unstable" };
    setNow(main.status, said[main.status], beside.filter(Boolean).join(" · "));
  }
  for (const [index, bar] of page.bars.entries()) {
    const value = main ? main.smoothed[index] : 0;
    bar.fill.style.transform = `translateX(${100 * value - 100}%)`;
    setText(bar.value, main ? percent(value) : "–");
  }
  mark(reply.manual);
  draw(reply);
  trace(main ? main.confidence : null);
  const figures = reply.figures;
  setText(byId("fps"), number(figures.fps, 0));
  setText(byId("trip"), number(median(page.trips), 0, " ms"));
  setText(byId("frame-ms"), number(figures.frame_ms, 1, " ms"));
  setText(byId("flips"), figures.flips_raw === null ? "–"
    : `${number(figures.flips_shown, 0)} (raw ${number(figures.flips_raw, 0)})`);
  setText(byId("delay"), number(figures.delay_s, 2, " s"));
  setText(byId("detector"), reply.detector);
  stages(reply.times_ms);
}

function stages(times) {
  const list = byId("stages");
  if (!list.parentElement.open) return;
  for (const [key, name] of Object.entries(STAGES)) {
    let value = byId(`stage-${key}`);
    if (!value) {
      const row = document.createElement("div");
      const title = document.createElement("dt");
      value = document.createElement("dd");
      title.textContent = name;
      value.id = `stage-${key}`;
      row.append(title, value);
      list.append(row);
    }
    setText(value, number(times[key], 1, " ms"));
  }
}

// The picture is mirrored, so boxes are too; their captions must not be.
function draw(reply) {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.round(boxes.clientWidth * ratio);
  const height = Math.round(boxes.clientHeight * ratio);
  if (boxes.width !== width || boxes.height !== height) { boxes.width = width; boxes.height = height; }
  const context = boxes.getContext("2d");
  context.clearRect(0, 0, width, height);
  const scale = Math.min(width / reply.width, height / reply.height);
  const left = (width - reply.width * scale) / 2;
  const top = (height - reply.height * scale) / 2;
  context.lineWidth = 2.5 * ratio;
  const size = Math.min(15, Math.max(11, boxes.clientWidth / 40)) * ratio;
  const high = 1.6 * size;
  context.font = `600 ${size}px system-ui, sans-serif`;
  const taken = [];
  for (const face of reply.faces) {
    const [x0, y0, x1, y1] = face.box;
    const x = left + (reply.width - x1) * scale;
    const y = top + y0 * scale;
    const sure = face.status === "label";
    const colour = sure ? "#4fc79a" : "#f0b44c";
    context.strokeStyle = colour;
    context.strokeRect(x, y, (x1 - x0) * scale, (y1 - y0) * scale);
    const which = reply.faces.length > 1 ? `${face.number} of ${reply.faces.length}: ` : "";
    const text = which + (sure ? `${face.label} ${percent(face.confidence)}` : face.status.replace("_", " "));
    const wide = context.measureText(text).width + 0.8 * size;
    const start = Math.min(Math.max(0, x - context.lineWidth / 2), Math.max(0, width - wide));
    // Where another caption is already, this one goes above it.
    let above = y - high;
    for (const [left, right, edge] of taken) {
      if (start < right && left < start + wide && Math.abs(edge - above) < high) above = edge - high;
    }
    above = Math.max(0, above);
    taken.push([start, start + wide, above]);
    taken.sort((a, b) => b[2] - a[2]);
    context.fillStyle = colour;
    context.fillRect(start, above, wide, high);
    context.fillStyle = "#0c0f0e";
    context.fillText(text, start + 0.4 * size, above + 1.13 * size);
  }
}

function trace(value) {
  const now = performance.now() / 1000;
  page.line.push([now, value]);
  while (page.line.length && page.line[0][0] < now - LINE_S) page.line.shift();
  let path = "";
  let drawing = false;
  for (const [time, confidence] of page.line) {
    if (confidence === null) { drawing = false; continue; }
    const x = 300 * (1 - (now - time) / LINE_S);
    path += `${drawing ? "L" : "M"}${x.toFixed(1)} ${(46 - 44 * confidence).toFixed(1)}`;
    drawing = true;
  }
  byId("line-path").setAttribute("d", path);
}

function setNow(state, text, beside) {
  const now = byId("now");
  now.dataset.state = state;
  setText(now.firstElementChild, text);
  setText(now.lastElementChild, beside);
  // A screen reader hears a label when it changes, and never more often than every two seconds.
  const time = performance.now();
  if (text !== page.said && time - page.saidAt > SAY_EVERY_MS) {
    byId("said").textContent = text;
    page.said = text;
    page.saidAt = time;
  }
}

function mark(name) {
  for (const [index, bar] of page.bars.entries()) {
    const pressed = String(page.classes[index] === name);
    if (bar.button.getAttribute("aria-pressed") !== pressed) bar.button.setAttribute("aria-pressed", pressed);
  }
}

function label(index) {
  const pressed = page.bars[index].button.getAttribute("aria-pressed") === "true";
  command({ type: "press", key: pressed ? "c" : String(index + 1) });
}

function command(value) {
  if (page.socket && page.socket.readyState === WebSocket.OPEN) page.socket.send(JSON.stringify(value));
}

function record() {
  if (page.recording) { command({ type: "stop" }); return; }
  byId("consent").returnValue = "no";
  byId("consent").showModal();
}

// Each frame is asked for when the one before has had its time.
function replay() {
  if (page.replaying) { endReplay(); return; }
  page.replaying = true;
  page.shownAt = 0;
  setText(byId("replay"), "Stop the replay");
  byId("record").disabled = byId("pause").disabled = byId("delete").disabled = true;
  page.asked += 1;
  command({ type: "replay" });
}

function again(reply) {
  const wait = page.shownAt ? 1000 * (reply.time_s - page.replayedS) - (performance.now() - page.shownAt) : 0;
  setTimeout(() => {
    if (!page.replaying) return;
    page.shownAt = performance.now();
    page.replayedS = reply.time_s;
    byId("replayed").src = reply.picture;
    byId("replayed").hidden = byId("replay-mark").hidden = false;
    page.last = reply;
    show(reply);
    page.asked += 1;
    command({ type: "next" });
  }, Math.max(0, wait));
}

function endReplay() {
  if (!page.replaying) return;
  page.replaying = false;
  setText(byId("replay"), "Replay");
  byId("replayed").hidden = byId("replay-mark").hidden = true;
  byId("record").disabled = byId("pause").disabled = byId("delete").disabled = false;
  next();
}

function scores(figures) {
  byId("score-figures").replaceChildren(...Object.entries(figures).map(([key, value]) => {
    const [name, share] = FIGURES[key];
    const row = document.createElement("div");
    const title = document.createElement("dt");
    const told = document.createElement("dd");
    title.textContent = name;
    told.textContent = share && value !== null ? percent(value) : number(value, Number.isInteger(value) ? 0 : 1);
    row.append(title, told);
    return row;
  }));
  byId("scores").showModal();
}

function askToDelete() {
  setText(byId("doomed"), page.folder);
  byId("deletion").returnValue = "no";
  byId("deletion").showModal();
}

function setRecording(on) {
  page.recording = on;
  byId("recording-mark").hidden = !on;
  setText(byId("record"), on ? "Stop recording" : "Record…");
}

function pause() {
  page.paused = !page.paused;
  setText(byId("pause"), page.paused ? "Go on" : "Pause");
  if (page.paused) { video.pause(); return; }
  video.play();
  if (!page.onTheWay) next();
}

const fault = (text) => setText(byId("fault"), text);
const percent = (value) => `${Math.round(100 * value)}%`;
const number = (value, digits, unit = "") => value === null || value === undefined ? "–" : value.toFixed(digits) + unit;
const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];
function setText(node, text) { if (node.textContent !== text) node.textContent = text; }

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.key >= "1" && event.key <= "7") command({ type: "press", key: event.key });
  else if (event.key === "0") command({ type: "press", key: "c" });
  else if ("[]-=vbnmkl".includes(event.key)) command({ type: "press", key: event.key });
  else if (event.key === "r" && !byId("record").disabled) record();
  else if (event.key === "p" && !byId("pause").disabled) pause();
});
byId("consent").addEventListener("close", () => {
  if (byId("consent").returnValue === "yes") command({ type: "record", consent: true });
});
byId("deletion").addEventListener("close", () => {
  if (byId("deletion").returnValue === "yes") command({ type: "delete", sure: true });
});
byId("replay").addEventListener("click", replay);
byId("score").addEventListener("click", () => command({ type: "score" }));
byId("delete").addEventListener("click", askToDelete);
byId("start").addEventListener("click", start);
byId("record").addEventListener("click", record);
byId("pause").addEventListener("click", pause);
load().catch(() => fault("The program on this computer does not answer."));
