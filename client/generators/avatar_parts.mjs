// Writes avatar_parts.safetensors: every part of DiceBear's "Pixel Art" (design CC0 1.0) as what it does to 16 x 16 pixels.
// Run once, in a folder with: npm install @dicebear/core@9.2.2 @dicebear/pixel-art@9.2.2 @resvg/resvg-js@2.6.2
//   node avatar_parts.mjs avatar_parts.safetensors
// For each part a uint8 tensor (3, 16, 16): 255 times the share of the part's own colour, of white and of black in a
// pixel; what is left shows what lies below. Drawn in pure red: own colour is then red minus white.
import { writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(`${process.cwd()}/x.js`);
const { Resvg } = require("@resvg/resvg-js");
const parts = await import(pathToFileURL(`${process.cwd()}/node_modules/@dicebear/pixel-art/lib/components/index.js`));
const red = new Proxy({}, { get: () => "#ff0000" });

function layers(body) {
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16" width="16" height="16" fill="none" shape-rendering="crispEdges">${body}</svg>`;
  const { pixels } = new Resvg(svg).render(); // RGBA, premultiplied
  const planes = new Uint8Array(3 * 256);
  for (let i = 0; i < 256; i++) {
    const [r, g, , a] = pixels.subarray(4 * i, 4 * i + 4);
    planes.set([r - g], i);
    planes.set([g], 256 + i);
    planes.set([a - r], 512 + i);
  }
  return planes;
}

const head = "M4 2h8v1h1v3h1v2h-1v3h-1v1";
const base = {
  base: { head: () => `<path fill="#f00" d="${head}H9v1h4v1h1v2H2v-2h1v-1h4v-1H4v-1H3V8H2V6h1V3h1V2Z"/><path fill="#fff" fill-opacity=".1" d="${head}H4v-1H3V8H2V6h1V3h1V2Z"/>` },
};
const header = { __metadata__: { origin: "@dicebear/pixel-art 9.2.2", licence: "CC0-1.0" } };
const data = [];
for (const group of ["base", "hair", "mouth", "eyes", "glasses", "beard", "clothing", "hat", "accessories"]) {
  const known = base[group] ?? parts[group];
  for (const name of Object.keys(known).sort()) {
    const start = data.length * 768;
    header[`${group}.${name}`] = { dtype: "U8", shape: [3, 16, 16], data_offsets: [start, start + 768] };
    data.push(layers(known[name]({}, red)));
  }
}
let text = JSON.stringify(header);
text += " ".repeat((8 - (text.length % 8)) % 8);
const length = Buffer.alloc(8);
length.writeBigUInt64LE(BigInt(text.length));
writeFileSync(process.argv[2], Buffer.concat([length, Buffer.from(text), ...data]));
