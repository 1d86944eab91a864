// The noise and the drawn labels of a seed, as meanstep's Python makes them with torch on a processor: SHA-256 names the stream, a
// Mersenne twister gives uniform bits, Box and Muller's map makes them normal. No dependencies.
"use strict";

// The first eight bytes of SHA-256 of a text, as two 32-bit words; FIPS 180-4.
function digest(text) {
  const primes = [];
  for (let n = 2; primes.length < 64; n++) if (primes.every((p) => n % p)) primes.push(n);
  const fraction = (x) => Math.floor((x - Math.floor(x)) * 2 ** 32) | 0;
  const k = primes.map((p) => fraction(Math.cbrt(p)));
  const state = primes.slice(0, 8).map((p) => fraction(Math.sqrt(p)));
  const bytes = new TextEncoder().encode(text);
  const padded = new DataView(new ArrayBuffer(((bytes.length + 72) >> 6) << 6));
  bytes.forEach((b, i) => padded.setUint8(i, b));
  padded.setUint8(bytes.length, 128);
  padded.setUint32(padded.byteLength - 4, bytes.length * 8);
  const turn = (x, n) => (x >>> n) | (x << (32 - n));
  for (let block = 0; block < padded.byteLength; block += 64) {
    const w = new Int32Array(64);
    for (let i = 0; i < 16; i++) w[i] = padded.getInt32(block + 4 * i);
    for (let i = 16; i < 64; i++) {
      const s0 = turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ (w[i - 15] >>> 3);
      const s1 = turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ (w[i - 2] >>> 10);
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let i = 0; i < 64; i++) {
      const s1 = turn(e, 6) ^ turn(e, 11) ^ turn(e, 25);
      const s0 = turn(a, 2) ^ turn(a, 13) ^ turn(a, 22);
      const one = (h + s1 + ((e & f) ^ (~e & g)) + k[i] + w[i]) | 0;
      const two = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + one) | 0, c, b, a, (one + two) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((x, i) => (state[i] = (state[i] + x) | 0));
  }
  return [state[0] >>> 0, state[1] >>> 0];
}

// A Mersenne twister (mt19937) seeded as torch.Generator.manual_seed does, with the lower 32 bits.
function twister(seed) {
  const n = 624, state = new Uint32Array(n);
  state[0] = seed;
  for (let i = 1; i < n; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  let at = n;
  const refill = () => {
    for (let i = 0; i < n; i++) {
      const mixed = (state[i] & 0x80000000) | (state[(i + 1) % n] & 0x7fffffff);
      state[i] = state[(i + 397) % n] ^ (mixed >>> 1) ^ (mixed & 1 ? 0x9908b0df : 0);
    }
    at = 0;
  };
  return () => {
    if (at === n) refill();
    let y = state[at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  };
}

// meanstep.key(seed, ...path): the path's parts as Python writes them, such as "'sample'" and "0".
function key(seed, ...path) {
  const [high, low] = digest(`(${[String(seed), ...path].join(", ")}${path.length ? "" : ","})`);
  return twister(((low >>> 1) | (high << 31)) >>> 0);
}

// torch.randn(count, generator=bits) in float32. From 16 entries on: all uniforms first, then pairs in blocks of 16, the last block
// drawn again where 16 does not divide the count; with fewer, pairs in double precision.
function normals(bits, count) {
  const out = new Float32Array(count);
  if (count < 16) {
    const uniform = () => {
      const [one, two] = [bits(), bits()];
      return ((one & 0x1fffff) * 2 ** 32 + two) * 2 ** -53;
    };
    for (let i = 0; i < count; i += 2) {
      const [angle, radius] = [2 * Math.PI * uniform(), Math.sqrt(-2 * Math.log1p(-uniform()))];
      out[i] = radius * Math.cos(angle);
      if (i + 1 < count) out[i + 1] = radius * Math.sin(angle);
    }
    return out;
  }
  const round = Math.fround, turn = round(2 * Math.PI);
  const fill = (from, to) => {
    for (let i = from; i < to; i++) out[i] = (bits() & 0xffffff) * 2 ** -24;
  };
  const block = (at) => {
    for (let j = at; j < at + 8; j++) {
      const radius = round(Math.sqrt(round(-2 * round(Math.log(round(1 - out[j]))))));
      const angle = round(turn * out[j + 8]);
      out[j + 8] = radius * round(Math.sin(angle));
      out[j] = radius * round(Math.cos(angle));
    }
  };
  fill(0, count);
  for (let at = 0; at + 16 <= count; at += 16) block(at);
  if (count % 16) {
    fill(count - 16, count);
    block(count - 16);
  }
  return out;
}

// meanstep.noise([seed], shape)[0], and the label of a seed among those that are offered.
const noise = (seed, count) => normals(key(seed, "'sample'", "0"), count);
const drawn = (seed, among) => among[key(seed, "'label'")() % among.length];
