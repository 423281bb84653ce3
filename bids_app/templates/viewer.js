(() => {
  "use strict";

  // left of the picture is the lower end of the axis that runs across: left is left
  const PLANES = [
    { name: "Axial", across: 0, up: 1, through: 2 },
    { name: "Coronal", across: 0, up: 2, through: 1 },
    { name: "Sagittal", across: 1, up: 2, through: 0 },
  ];
  const SIDES = [["L", "R"], ["P", "A"], ["I", "S"]];
  const PIXEL = 0.7; // mm
  const MISSING = -32768;
  const KEYS = {
    ArrowLeft: ["across", -1], ArrowRight: ["across", 1], ArrowUp: ["up", 1],
    ArrowDown: ["up", -1], PageUp: ["through", 1], PageDown: ["through", -1],
  };

  function bytesOf(text) {
    const raw = atob(text);
    const bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return bytes;
  }

  async function unpack(text) {
    const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  // low bytes of all integers, then their high bytes
  function concentrations(bytes, step) {
    const count = bytes.length / 2;
    const values = new Float32Array(count);
    for (let i = 0; i < count; i++) {
      const whole = ((bytes[i] | (bytes[count + i] << 8)) << 16) >> 16;
      values[i] = whole === MISSING ? NaN : whole * step;
    }
    return values;
  }

  function toIndex(image, point) {
    const m = image.matrix;
    return [0, 4, 8].map((r) => m[r] * point[0] + m[r + 1] * point[1] + m[r + 2] * point[2] + m[r + 3]);
  }

  function nearest(image, values, point) {
    const [i, j, k] = toIndex(image, point).map(Math.round);
    const [nx, ny, nz] = image.shape;
    const inside = i >= 0 && j >= 0 && k >= 0 && i < nx && j < ny && k < nz;
    return inside ? values[i + nx * (j + ny * k)] : NaN;
  }

  // Sample an image along rows of a plane into out; NaN outside.
  function fill(image, values, frame, smooth, out) {
    const [nx, ny, nz] = image.shape;
    const m = image.matrix;
    const slab = nx * ny;
    const axis = (a) => [m[a] * PIXEL, m[4 + a] * PIXEL, m[8 + a] * PIXEL];
    const [ai, aj, ak] = axis(frame.plane.across);
    const [ui, uj, uk] = axis(frame.plane.up);
    const [i0, j0, k0] = toIndex(image, frame.origin);
    let at = 0;
    for (let row = 0; row < frame.height; row++) {
      const up = frame.height - 1 - row;
      let i = i0 + up * ui, j = j0 + up * uj, k = k0 + up * uk;
      for (let column = 0; column < frame.width; column++, i += ai, j += aj, k += ak) {
        const ri = Math.round(i), rj = Math.round(j), rk = Math.round(k);
        if (ri < 0 || rj < 0 || rk < 0 || ri >= nx || rj >= ny || rk >= nz) {
          out[at++] = NaN;
          continue;
        }
        const close = values[ri + nx * rj + slab * rk];
        if (!smooth) {
          out[at++] = close;
          continue;
        }
        const fi = Math.max(0, Math.floor(i)), fj = Math.max(0, Math.floor(j)), fk = Math.max(0, Math.floor(k));
        const di = i < fi || fi + 1 >= nx ? 0 : i - fi;
        const dj = j < fj || fj + 1 >= ny ? 0 : j - fj;
        const dk = k < fk || fk + 1 >= nz ? 0 : k - fk;
        const p = fi + nx * fj + slab * fk;
        const x = di ? 1 : 0, y = dj ? nx : 0, z = dk ? slab : 0;
        const near = (values[p] * (1 - di) + values[p + x] * di) * (1 - dj)
          + (values[p + y] * (1 - di) + values[p + x + y] * di) * dj;
        const far = (values[p + z] * (1 - di) + values[p + x + z] * di) * (1 - dj)
          + (values[p + y + z] * (1 - di) + values[p + x + y + z] * di) * dj;
        const mean = near * (1 - dk) + far * dk;
        out[at++] = mean === mean ? mean : close;
      }
    }
    return out;
  }

  class Viewer {
    constructor(root, view, anatomy) {
      Object.assign(this, { root, view, anatomy, pending: false });
      this.point = view.start.map((value, axis) => this.clamp(value, axis));
      this.canvases = [...root.querySelectorAll("canvas[data-plane]")];
      this.axes = [...root.querySelectorAll("input[data-axis]")];
      this.tables = Object.fromEntries(
        Object.entries(view.scales).map(([name, text]) => [name, bytesOf(text)]));
      this.colors = anatomy ? anatomy.colors.map((text) => [1, 3, 5].map(
        (at) => parseInt(text.slice(at, at + 2), 16))) : [];
      this.frames = this.canvases.map((canvas, n) => this.frame(canvas, PLANES[n]));
      this.listen();
      this.legend();
      this.part("state").hidden = true;
      this.part("all").hidden = false;
      this.draw();
    }

    part(name) {
      return this.root.querySelector(`[data-part="${name}"]`);
    }

    clamp(value, axis) {
      return Math.min(this.view.high[axis], Math.max(this.view.low[axis], value));
    }

    frame(canvas, plane) {
      const size = (axis) => this.view.high[axis] - this.view.low[axis];
      const [width, height] = [plane.across, plane.up].map((a) => Math.round(size(a) / PIXEL) + 1);
      Object.assign(canvas, { width, height });
      canvas.style.flex = `${size(plane.across)} 1 0`;
      const made = (kind) => new kind(width * height);
      return {
        canvas, plane, width, height, origin: [...this.view.low], context: canvas.getContext("2d"),
        grey: made(Float32Array), color: made(Float32Array), label: made(Float32Array),
      };
    }

    listen() {
      this.frames.forEach((frame) => {
        const { canvas, plane } = frame;
        const go = (event) => {
          const rect = canvas.getBoundingClientRect();
          const x = (event.clientX - rect.left) / rect.width * frame.width - 0.5;
          const y = frame.height - 0.5 - (event.clientY - rect.top) / rect.height * frame.height;
          this.move({ [plane.across]: this.view.low[plane.across] + x * PIXEL,
            [plane.up]: this.view.low[plane.up] + y * PIXEL });
        };
        canvas.addEventListener("pointerdown", (event) => {
          if (event.pointerType !== "touch") canvas.setPointerCapture(event.pointerId);
          go(event);
        });
        canvas.addEventListener("pointermove", (event) => {
          if (event.buttons & 1 && event.pointerType !== "touch") go(event);
        });
        canvas.addEventListener("keydown", (event) => {
          const known = KEYS[event.key];
          if (!known || event.ctrlKey || event.altKey || event.metaKey) return;
          event.preventDefault();
          const axis = plane[known[0]];
          this.move({ [axis]: this.point[axis] + known[1] * (event.shiftKey ? 10 : 1) });
        });
        canvas.addEventListener("wheel", (event) => {
          if (document.activeElement !== canvas || !event.deltaY) return;
          event.preventDefault();
          const axis = plane.through;
          this.move({ [axis]: this.point[axis] - Math.sign(event.deltaY) });
        }, { passive: false });
      });
      this.axes.forEach((input, axis) => {
        Object.assign(input, { min: this.view.low[axis], max: this.view.high[axis] });
        input.addEventListener("change", () => {
          if (Number.isFinite(input.valueAsNumber)) this.move({ [axis]: input.valueAsNumber });
          else this.show();
        });
      });
      ["map", "opacity", "threshold", "smooth", "outlines"].forEach((name) => {
        this.part(name).addEventListener("input", () => this.draw());
      });
      this.part("map").addEventListener("input", () => {
        this.part("threshold").value = this.chosen().scale === "inferno" ? 10 : 0;
      });
    }

    legend() {
      const row = this.part("legend");
      (this.anatomy ? this.anatomy.names : []).forEach((name, n) => {
        const swatch = document.createElement("span");
        swatch.className = "viewer-swatch";
        swatch.style.background = this.anatomy.colors[n];
        const entry = document.createElement("span");
        entry.append(swatch, name);
        row.append(entry);
      });
    }

    chosen() {
      return this.view.maps[Number(this.part("map").value)];
    }

    move(changes) {
      for (const [axis, value] of Object.entries(changes)) {
        this.point[axis] = Math.round(this.clamp(value, axis) * 10) / 10;
      }
      this.draw();
    }

    region() {
      if (!this.anatomy) return "";
      const label = nearest(this.anatomy, this.anatomy.labelled, this.point);
      return label ? this.anatomy.names[label - 1] || "" : "no region above one half";
    }

    // What is at the cross, in words and in the table.
    show() {
      const told = (map) => {
        const value = nearest(map, map.values, this.point);
        return Number.isNaN(value) ? "n/a" : value.toFixed(1).replace(/^-(0\.0)$/, "$1");
      };
      this.view.maps.forEach((map, n) => {
        this.root.querySelector(`[data-value="${n}"]`).textContent = told(map);
      });
      this.axes.forEach((input, axis) => {
        input.value = this.point[axis];
      });
      const place = ["x", "y", "z"].map((name, axis) => `${name} ${this.point[axis].toFixed(1)}`);
      const value = told(this.chosen());
      const text = value === "n/a" ? "n/a" : `${value} mmol/L`;
      const parts = [`${this.chosen().name}: ${text}`, this.region(), `${place.join(", ")} mm`];
      this.part("value").textContent = parts.filter(Boolean).join(" · ").replace(/-/g, "−");
    }

    draw() {
      if (this.pending) return;
      this.pending = true;
      requestAnimationFrame(() => {
        this.pending = false;
        this.frames.forEach((frame) => this.paint(frame));
        this.bar();
        this.show();
      });
    }

    paint(frame) {
      const { plane, width, height, context } = frame;
      const map = this.chosen();
      const [low, high] = map.range;
      const table = this.tables[map.scale];
      const opacity = this.anatomy ? Number(this.part("opacity").value) : 1;
      const bound = this.part("threshold").valueAsNumber;
      const threshold = Number.isFinite(bound) ? bound : -Infinity;
      frame.origin[plane.through] = this.point[plane.through];
      const color = fill(map, map.values, frame, this.part("smooth").checked, frame.color);
      const grey = this.anatomy ? fill(this.anatomy, this.anatomy.values, frame, true, frame.grey) : null;
      const scale = this.anatomy ? 255 / (this.anatomy.levels - 1) : 0;
      const picture = context.createImageData(width, height);
      const pixels = picture.data;
      for (let at = 0, p = 0; at < width * height; at++, p += 4) {
        const base = grey && grey[at] === grey[at] ? grey[at] * scale : 0;
        let alpha = 0, entry = 0;
        if (color[at] >= threshold) {
          alpha = opacity;
          entry = 3 * Math.max(0, Math.min(255, Math.floor((color[at] - low) / (high - low) * 256)));
        }
        for (let c = 0; c < 3; c++) pixels[p + c] = base * (1 - alpha) + alpha * table[entry + c];
        pixels[p + 3] = 255;
      }
      if (this.anatomy && this.part("outlines").checked) this.outline(frame, pixels);
      context.putImageData(picture, 0, 0);
      this.cross(frame);
      this.sides(frame);
    }

    // A pixel is an outline where the pixel to the right or below belongs to another region.
    outline(frame, pixels) {
      const { width, height } = frame;
      const label = fill(this.anatomy, this.anatomy.labelled, frame, false, frame.label);
      for (let row = 0; row < height - 1; row++) {
        for (let column = 0; column < width - 1; column++) {
          const at = row * width + column;
          const own = label[at] || 0;
          const other = own === (label[at + 1] || 0) ? label[at + width] || 0 : label[at + 1] || 0;
          if (own === other) continue;
          // the one that comes first in the list: a lesion before a tissue
          const shown = own && other ? Math.min(own, other) : own + other;
          for (let c = 0; c < 3; c++) pixels[4 * at + c] = this.colors[shown - 1][c];
        }
      }
    }

    cross(frame) {
      const { plane, width, height, context } = frame;
      const x = (this.point[plane.across] - this.view.low[plane.across]) / PIXEL + 0.5;
      const y = height - 0.5 - (this.point[plane.up] - this.view.low[plane.up]) / PIXEL;
      const gap = 5;
      for (const [line, style] of [[3, "rgba(0,0,0,0.55)"], [1, "#ffffff"]]) {
        context.lineWidth = line;
        context.strokeStyle = style;
        context.beginPath();
        for (const [x0, y0, x1, y1] of [[0, y, x - gap, y], [x + gap, y, width, y],
          [x, 0, x, y - gap], [x, y + gap, x, height]]) {
          context.moveTo(x0, y0);
          context.lineTo(x1, y1);
        }
        context.stroke();
      }
    }

    sides(frame) {
      const { plane, width, height, context } = frame;
      context.font = "bold 15px sans-serif";
      context.lineWidth = 3;
      context.strokeStyle = "#000000";
      context.fillStyle = "#ffffff";
      const write = (text, x, y, align, base) => {
        Object.assign(context, { textAlign: align, textBaseline: base });
        context.strokeText(text, x, y);
        context.fillText(text, x, y);
      };
      write(SIDES[plane.across][0], 4, height / 2, "left", "middle");
      write(SIDES[plane.across][1], width - 4, height / 2, "right", "middle");
      write(SIDES[plane.up][1], width / 2, 4, "center", "top");
      write(SIDES[plane.up][0], width / 2, height - 4, "center", "bottom");
    }

    bar() {
      const map = this.chosen();
      const table = this.tables[map.scale];
      const context = this.part("bar").getContext("2d");
      const picture = context.createImageData(256, 1);
      for (let n = 0; n < 256; n++) picture.data.set([...table.slice(3 * n, 3 * n + 3), 255], 4 * n);
      context.putImageData(picture, 0, 0);
      this.part("scale").textContent = `${map.range[0]} to ${map.range[1]} mmol/L`;
    }
  }

  const anatomies = new Map(); // sessions with several runs share one

  async function loadAnatomy(id) {
    const node = document.getElementById(id);
    if (!node) return null;
    const held = JSON.parse(node.textContent);
    held.values = await unpack(held.data);
    held.labelled = await unpack(held.labels);
    return held;
  }

  async function start(root) {
    const state = root.querySelector('[data-part="state"]');
    if (typeof DecompressionStream === "undefined") {
      state.textContent = "This browser is too old for the view (it lacks DecompressionStream, which "
        + "browsers have since 2023); the figures of this report show the same maps.";
      return;
    }
    try {
      const view = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
      const id = root.dataset.anatomy;
      if (!anatomies.has(id)) anatomies.set(id, loadAnatomy(id));
      for (const map of view.maps) map.values = concentrations(await unpack(map.data), map.step);
      new Viewer(root, view, view.space ? await anatomies.get(id) : null);
    } catch (error) {
      state.textContent = `The view cannot be shown (${error.message}); the figures of this report show the same maps.`;
    }
  }

  document.querySelectorAll(".viewer").forEach(start);
})();
