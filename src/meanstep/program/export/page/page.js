// The page: what is chosen, what is made of it, how it is shown. FACTS, noise, drawn and runtime are given.
const find = (id) => document.getElementById(id);
const SIZE = FACTS.shape.reduce((a, b) => a * b, 1);
const state = { seed: 0, label: null, steps: FACTS.first, scale: FACTS.scales[0] };
let graphs = null;

async function unpacked(id) {
  const text = find(id).textContent, raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  find(id).remove();
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function opened() {
  const ort = runtime();
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.proxy = false;
  ort.env.wasm.wasmBinary = (await unpacked("runtime")).buffer;
  const open = async (id) => ort.InferenceSession.create(await unpacked(id), { executionProviders: ["wasm"] });
  graphs = { ort, step: await open("step"), show: await open("show") };
  await make(Array.from({ length: FACTS.many }, (_, i) => i)); // the first run is slower than all others
}

// From noise of `n` samples (a Float32Array) and a label each, at a guidance scale if that is an input, to what is shown; milliseconds of the network and the decoding.
async function generated(z, labels, steps, scale = state.scale) {
  const { ort, step, show } = graphs, n = z.length / SIZE, shape = [n, ...FACTS.shape];
  const times = Float32Array.from({ length: steps + 1 }, (_, k) => 1 - k / steps), began = performance.now();
  let held = new ort.Tensor("float32", z, shape);
  const y = labels && new ort.Tensor("int64", BigInt64Array.from(labels, BigInt), [n]);
  const guidance = FACTS.scales.length && new ort.Tensor("float32", new Float32Array(n).fill(scale), [n]);
  for (let k = 0; k < steps; k++) {
    const time = (t) => new ort.Tensor("float32", new Float32Array(n).fill(t), [n]);
    const given = { z: held, r: time(times[k + 1]), t: time(times[k]), ...(y ? { y } : {}), ...(guidance ? { guidance } : {}) };
    const used = step.inputNames.reduce((all, name) => ({ ...all, [name]: given[name] }), {});
    held = (await step.run(used)).next;
  }
  const out = await show.run({ z: held });
  return { ...out, milliseconds: performance.now() - began };
}

const labelOf = (seed) => (state.label === null ? drawn(seed, FACTS.classes.map(([k]) => k)) : state.label);
const nameOf = (k) => FACTS.classes.find(([other]) => other === k)[1];

function noises(seeds) {
  const z = new Float32Array(seeds.length * SIZE);
  seeds.forEach((seed, i) => z.set(noise(seed, SIZE), i * SIZE));
  return z;
}

// What `meanstep sample --seeds` makes, for tests and for the curious: {images or values, milliseconds}.
async function make(seeds, steps = state.steps, labels = null, scale = state.scale) {
  const chosen = FACTS.classes.length ? labels || seeds.map((s) => drawn(s, FACTS.classes.map(([k]) => k))) : null;
  return generated(noises(seeds), chosen, steps, scale);
}

// Drawing ---------------------------------------------------------------------------------------------------------------------------

const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function picture(canvas, tensor, i) {
  const [, channels, height, width] = tensor.dims, area = height * width, from = i * channels * area;
  [canvas.width, canvas.height] = [width, height];
  const pixels = new ImageData(width, height);
  for (let p = 0; p < area; p++) {
    for (let c = 0; c < 3; c++) pixels.data[4 * p + c] = tensor.data[from + (channels === 3 ? c : 0) * area + p];
    pixels.data[4 * p + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

const ramp = () => [ink("blue"), "#d55e00", "#00875a", "#b8558f", "#c98a00"];

function lines(canvas, tensor, i, low, high) {
  const size = tensor.data.length / tensor.dims[0], length = tensor.dims[tensor.dims.length - 1], channels = size / length;
  [canvas.width, canvas.height] = [440, 280];
  const pen = canvas.getContext("2d"), at = (v) => 270 - (260 * (v - low)) / (high - low || 1);
  const colours = ramp();
  for (let c = 0; c < channels; c++) {
    pen.beginPath();
    for (let x = 0; x < length; x++) pen.lineTo(10 + (420 * x) / Math.max(1, length - 1), at(tensor.data[i * size + c * length + x]));
    [pen.strokeStyle, pen.lineWidth, pen.lineJoin] = [colours[c % colours.length], 3, "round"];
    pen.stroke();
  }
}

function points(canvas, tensor, low, high, marked) {
  const n = tensor.dims[0], width = tensor.data.length / n, second = width > 1 ? 1 : 0;
  [canvas.width, canvas.height] = [720, 720];
  const pen = canvas.getContext("2d"), at = (v) => 20 + (680 * (v - low)) / (high - low || 1);
  pen.fillStyle = ink("blue");
  pen.globalAlpha = marked ? 1 : 0.55;
  for (let i = 0; i < n; i++) {
    pen.beginPath();
    pen.arc(at(tensor.data[i * width]), 720 - at(tensor.data[i * width + second]), marked ? 12 : 4, 0, 7);
    pen.fill();
  }
}

function span(data) {
  const sorted = Float32Array.from(data).sort(), edge = Math.floor(sorted.length / 200);
  const [low, high] = [sorted[edge], sorted[sorted.length - 1 - edge]], more = (high - low) / 20 || 1;
  return [low - more, high + more];
}

let range = null;
function drawInto(canvas, out, i) {
  if (FACTS.view === "pictures") return picture(canvas, out.images, i);
  const values = out.values || out.latents;
  range = range || span(values.data);
  if (FACTS.view === "lines") return lines(canvas, values, i, ...range);
  return points(canvas, values, ...range, values.dims[0] === 1);
}

function shown(place, count, captions) {
  while (place.children.length > count) place.lastChild.remove();
  while (place.children.length < count) {
    const figure = document.createElement("figure");
    figure.append(document.createElement("canvas"), document.createElement("figcaption"));
    place.append(figure);
  }
  [...place.children].forEach((figure, i) => {
    figure.lastChild.textContent = captions[i];
    figure.firstChild.setAttribute("role", "img");
    figure.firstChild.setAttribute("aria-label", captions[i]);
  });
  return [...place.children].map((figure) => figure.firstChild);
}

// What is chosen --------------------------------------------------------------------------------------------------------------------

const digits = (ms) => (ms >= 10 ? ms.toFixed(0) : ms >= 0.01 ? ms.toFixed(ms >= 1 ? 1 : 2) : "< 0.01");

async function refresh() {
  const seeds = Array.from({ length: FACTS.many }, (_, i) => state.seed + i);
  const labels = FACTS.classes.length ? seeds.map(labelOf) : null;
  const out = await generated(noises(seeds), labels, state.steps);
  const caption = (seed, i) => `seed ${seed}${labels ? ` · ${nameOf(labels[i])}` : ""}`;
  if (FACTS.view === "points") {
    const [canvas] = shown(find("samples"), 1, [`seeds ${seeds[0]} to ${seeds[seeds.length - 1]}`]);
    drawInto(canvas, out, 0);
  } else shown(find("samples"), seeds.length, seeds.map(caption)).forEach((canvas, i) => drawInto(canvas, out, i));
  find("seed-shown").textContent = state.seed;
  find("speed").textContent = digits(out.milliseconds / FACTS.many);
  find("unit").textContent = `ms a ${FACTS.view === "pictures" ? "picture" : "sample"}, ${state.steps} step${state.steps > 1 ? "s" : ""}`;
}

async function walk() {
  const [from, to, way] = ["from", "to", "way"].map((id) => Number(find(id).value));
  const [a, b] = [noise(from, SIZE), noise(to, SIZE)], z = new Float32Array(SIZE);
  for (let i = 0; i < SIZE; i++) z[i] = way === 0 ? a[i] : way === 1 ? b[i] : Math.cos((way * Math.PI) / 2) * a[i] + Math.sin((way * Math.PI) / 2) * b[i];
  const out = await generated(z, FACTS.classes.length ? [labelOf(from)] : null, state.steps);
  const [canvas] = shown(find("walked"), 1, [way === 0 ? `seed ${from}` : way === 1 ? `seed ${to}` : `${Math.round(100 * way)} % of the way`]);
  drawInto(canvas, out, 0);
}

// One thing at a time, and of what is asked meanwhile only the last.
function inTurn(work) {
  let busy = false, again = false;
  return async function ask() {
    if (busy) return void (again = true);
    busy = true;
    do {
      again = false;
      await work();
      await new Promise((done) => requestAnimationFrame(done));
    } while (again);
    busy = false;
  };
}
let turn = Promise.resolve();
const queued = (work) => () => (turn = turn.then(work).catch(failed));
const all = inTurn(queued(refresh)), one = inTurn(queued(walk));
const both = () => { all(); one(); };

function buttons(place, entries, chosen, choose) {
  for (const [value, text] of entries) {
    const button = document.createElement("button");
    [button.type, button.textContent] = ["button", text];
    button.setAttribute("aria-pressed", value === chosen);
    button.onclick = () => {
      place.querySelectorAll("button").forEach((other) => other.setAttribute("aria-pressed", other === button));
      choose(value);
      both();
    };
    place.append(button);
  }
}

function seeded(seed) {
  state.seed = Math.max(0, Math.min(Number.MAX_SAFE_INTEGER - 4096, Math.floor(Number(seed)) || 0));
  find("seed").value = Math.min(999, state.seed);
  find("seed-number").value = state.seed;
  all();
}

function scaled(scale) {
  state.scale = Number(scale);
  find("scale-shown").textContent = state.scale.toFixed(2);
  both();
}

function failed(error) {
  find("status").classList.add("bad");
  find("status").hidden = false;
  find("status").textContent = `This browser cannot run the network: ${error && error.message ? error.message : error}`;
}

let walking = 0;
function play() {
  walking = walking ? 0 : performance.now() - 4000 * Number(find("way").value);
  find("play").setAttribute("aria-pressed", Boolean(walking));
  const frame = (now) => {
    if (!walking) return;
    const phase = ((now - walking) / 4000) % 2;
    find("way").value = phase < 1 ? phase : 2 - phase;
    one();
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
}

function wired() {
  find("samples").classList.add(FACTS.view, FACTS.view === "pictures" && Math.max(...FACTS.shape.slice(-2)) < 64 ? "pixels" : "smooth");
  find("walked").classList.add(FACTS.view === "pictures" ? "pixels" : "smooth");
  find("classes").hidden = !FACTS.classes.length;
  buttons(find("classes"), [[null, "drawn by the seed"], ...FACTS.classes], null, (label) => (state.label = label));
  buttons(find("steps"), FACTS.steps.map((n) => [n, String(n)]), FACTS.first, (n) => (state.steps = n));
  find("guided").hidden = !FACTS.scales.length;
  if (FACTS.scales.length) {
    [find("scale").min, find("scale").max, find("scale").value] = [...FACTS.scales, FACTS.scales[0]];
    find("scale-shown").textContent = state.scale.toFixed(2);
    find("scale").oninput = (event) => scaled(event.target.value);
  }
  find("seed").oninput = (event) => seeded(event.target.value);
  find("seed-number").onchange = (event) => seeded(event.target.value);
  find("again").onclick = () => seeded((state.seed + FACTS.many) % 1000);
  ["from", "to", "way"].forEach((id) => (find(id).oninput = one));
  find("play").onclick = play;
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", both);
  find("exact").textContent = FACTS.exact;
}

wired();
window.meanstep = { make, noise, drawn, ready: opened().then(refresh).then(walk).then(() => (find("status").hidden = true)) };
window.meanstep.ready.catch(failed);
