// The page's only script. It draws the plots from the numbers in their data-plot attributes and lets a reader zoom,
// point, and hide traces, by pointer or keyboard. It is written by hand because plotting libraries weigh megabytes in
// every report, cannot be used with a keyboard and do not follow light and dark; this is a few kilobytes.
"use strict";
(() => {
  const NS = "http://www.w3.org/2000/svg";
  const DASHES = ["", "7 3", "2 2.5", "8 3 2 3"];
  const EDGE = { left: 58, right: 12, top: 10, bottom: 40 };
  const HEIGHT = 260;

  const element = (name, attributes, parent, text) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    if (parent) parent.append(made);
    return made;
  };
  const drawn = (name, attributes, parent, text) => {
    const made = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  };
  const words = (value) => {
    if (value === null || !Number.isFinite(value)) return "not measured";
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-4 || size >= 1e9)) return value.toExponential(2).replace("-", "−");
    const digits = size === 0 ? 0 : Math.min(20, Math.max(0, 3 - Math.floor(Math.log10(size))));
    if (size === 0) return "0"; // and not -0
    return value.toLocaleString("en", { maximumFractionDigits: digits }).replace("-", "−");
  };
  const ticks = (low, high, count, whole = false) => {
    const rough = whole ? Math.max(1, (high - low) / count) : (high - low) / count;
    if (!(rough > 0)) return [low];
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = ([1, 2, 5, 10].find((factor) => factor * power >= rough * 0.99) || 10) * power;
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push(i * step || 0);
    return found;
  };
  // Powers of ten with 2 and 5 between where there is room; within one decade, round numbers.
  const logTicks = (low, high) => {
    const factors = high - low > 3 ? [1] : [1, 2, 5];
    const found = [];
    for (let power = Math.floor(low); power <= high; power++) {
      for (const factor of factors) found.push(Math.log10(factor) + power);
    }
    const inside = found.filter((tick) => tick >= low && tick <= high);
    const every = Math.ceil(inside.length / 6);
    if (inside.length > 2) return inside.filter((_, i) => i % every === 0);
    return ticks(10 ** low, 10 ** high, 4).filter((value) => value > 0).map(Math.log10);
  };

  class Plot {
    constructor(figure) {
      this.figure = figure;
      this.told = JSON.parse(figure.dataset.plot);
      this.traces = this.told.traces.map((trace, place) => ({ ...trace, place }));
      const lines = this.traces.every((trace) => trace.kind === "line");
      this.loggable = lines && this.traces.some((trace) => trace.y.some((y) => y > 0));
      this.log = this.told.log && this.loggable;
      this.box = null; // what the reader has zoomed to: {x: [low, high], y: [low, high] or null}
      this.at = null; // the point under the cursor
      this.cloud = this.traces.some((trace) => trace.kind === "points");
      this.whole = this.traces.every((trace) => trace.kind === "line" && trace.x.every(Number.isInteger));
      this.build();
      this.listen();
      new ResizeObserver(() => this.draw()).observe(this.stage);
      this.draw();
    }

    build() {
      const controls = element("div", { class: "controls" });
      const data = this.traces.filter((trace) => trace.kind !== "guide");
      for (const trace of data.length > 1 ? data : []) {
        const button = element("button", { type: "button", class: "trace", "aria-pressed": trace.shown }, controls);
        const key = drawn("svg", { viewBox: "0 0 24 10", "aria-hidden": "true" }, button);
        this.key(trace, key);
        button.append(trace.name);
        button.addEventListener("click", () => {
          trace.shown = !trace.shown;
          button.setAttribute("aria-pressed", trace.shown);
          this.draw();
        });
      }
      if (this.loggable) {
        const button = element("button", { type: "button", "aria-pressed": this.log }, controls, "log scale");
        button.addEventListener("click", () => {
          this.log = !this.log;
          button.setAttribute("aria-pressed", this.log);
          this.box = this.box && { x: this.box.x, y: null };
          this.draw();
        });
      }
      this.all = element("button", { type: "button", hidden: "" }, controls, "show all");
      this.all.addEventListener("click", () => this.reset());
      const hint = "Arrow keys read the values, plus and minus zoom, Escape shows all.";
      const label = { role: "application", tabindex: "0", "aria-label": `${this.told.title}. ${hint}`, title: hint };
      this.stage = element("div", { class: "stage", ...label });
      this.stage.removeAttribute("title");
      this.tip = element("div", { class: "tip", hidden: "" });
      this.live = element("div", { class: "unseen", "aria-live": "polite" });
      this.figure.querySelector(".drawing").replaceChildren(controls, this.stage, this.live);
    }

    key(trace, svg) {
      const colour = `var(--series-${(trace.place % 6) + 1})`;
      if (trace.kind === "line") {
        const dash = DASHES[trace.place % DASHES.length];
        drawn("line", { x1: 0, x2: 24, y1: 5, y2: 5, stroke: colour, "stroke-width": 2.5, "stroke-dasharray": dash }, svg);
      } else drawn("circle", { cx: 12, cy: 5, r: 4, fill: colour }, svg);
    }

    // -- scales ----------------------------------------------------------------------------------------------
    usable(y) {
      return y !== null && (!this.log || y > 0);
    }

    spans() {
      const shown = this.traces.filter((trace) => trace.shown);
      const data = shown.filter((trace) => trace.kind !== "guide");
      const bars = data.some((trace) => trace.kind === "bars");
      const ends = (values) => {
        const known = values.filter((value) => value !== null && Number.isFinite(value));
        if (!known.length) return [0, 1];
        let low = known[0];
        let high = known[0];
        for (const value of known) {
          low = Math.min(low, value);
          high = Math.max(high, value);
        }
        const half = Math.abs(low) / 10 || 0.5;
        return low === high ? [low - half, high + half] : [low, high];
      };
      let x = ends(data.flatMap((trace) => trace.x));
      if (bars) {
        const pad = (x[1] - x[0]) / Math.max(2, 2 * Math.max(...data.map((trace) => trace.x.length)));
        x = [x[0] - pad, x[1] + pad];
      }
      if (this.cloud) x = [x[0] - 0.03 * (x[1] - x[0]), x[1] + 0.03 * (x[1] - x[0])];
      if (this.told.width) x = this.told.width;
      if (this.box) x = this.box.x;
      if (this.box && this.box.y) return { x, y: this.box.y };
      if (this.told.range && !this.log && !this.box) return { x, y: this.told.range };
      const inside = (this.box ? data : shown).flatMap((trace) =>
        trace.y.filter((y, i) => this.usable(y) && (!this.box || (trace.x[i] >= x[0] && trace.x[i] <= x[1]))));
      const [low, high] = ends(inside.map((y) => (this.log ? Math.log10(y) : y)));
      const pad = 0.05 * (high - low);
      return { x, y: bars ? [0, high + pad] : [low - pad, high + pad] };
    }

    across(x) {
      return EDGE.left + ((x - this.span.x[0]) / (this.span.x[1] - this.span.x[0])) * this.inner.width;
    }

    down(y) {
      const value = this.log ? Math.log10(y) : y;
      return EDGE.top + (1 - (value - this.span.y[0]) / (this.span.y[1] - this.span.y[0])) * this.inner.height;
    }

    // -- drawing ---------------------------------------------------------------------------------------------
    draw() {
      const width = Math.max(240, this.stage.clientWidth || 560);
      this.inner = { width: width - EDGE.left - EDGE.right, height: HEIGHT - EDGE.top - EDGE.bottom };
      this.span = this.spans();
      this.all.hidden = !this.box;
      const svg = document.createElementNS(NS, "svg");
      svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
      svg.setAttribute("aria-hidden", "true");
      const clip = `clip-${(Plot.count = (Plot.count || 0) + 1)}`;
      const hole = drawn("clipPath", { id: clip }, svg);
      const area = { x: EDGE.left, y: EDGE.top, width: this.inner.width, height: this.inner.height };
      drawn("rect", area, hole);
      this.axes(svg, width);
      const group = drawn("g", { "clip-path": `url(#${clip})` }, svg);
      for (const trace of this.traces) if (trace.shown) this.trace(trace, group);
      this.cursor = drawn("g", { class: "cursor" }, svg);
      this.frame = drawn("rect", { class: "choice", width: 0, height: 0 }, svg);
      this.stage.replaceChildren(svg, this.tip);
      this.svg = svg;
      this.point(null);
    }

    axes(svg, width) {
      const bottom = HEIGHT - EDGE.bottom;
      for (const tick of this.log ? logTicks(...this.span.y) : ticks(...this.span.y, 4)) {
        const y = EDGE.top + (1 - (tick - this.span.y[0]) / (this.span.y[1] - this.span.y[0])) * this.inner.height;
        drawn("line", { class: "grid", x1: EDGE.left, x2: width - EDGE.right, y1: y, y2: y }, svg);
        const word = words(this.log ? 10 ** tick : tick);
        drawn("text", { x: EDGE.left - 6, y: y + 4, "text-anchor": "end" }, svg, word);
      }
      for (const tick of ticks(...this.span.x, Math.max(3, Math.floor(width / 90)), this.whole)) {
        drawn("text", { x: this.across(tick), y: bottom + 16, "text-anchor": "middle" }, svg, words(tick));
      }
      const middle = { x: EDGE.left + this.inner.width / 2, y: HEIGHT - 6, "text-anchor": "middle" };
      drawn("text", middle, svg, this.told.x);
      const turned = `translate(12 ${EDGE.top + this.inner.height / 2}) rotate(-90)`;
      drawn("text", { transform: turned, "text-anchor": "middle" }, svg, this.told.y);
      for (const [x, text] of this.told.marks) {
        const place = this.across(x);
        if (place < EDGE.left || place > width - EDGE.right) continue;
        drawn("line", { class: "mark", x1: place, x2: place, y1: EDGE.top, y2: bottom }, svg);
        const left = place > width / 2;
        const at = { x: place + (left ? -5 : 5), y: EDGE.top + 10, "text-anchor": left ? "end" : "start" };
        drawn("text", at, svg, text);
      }
    }

    trace(trace, group) {
      const colour = trace.kind === "guide" ? "var(--muted)" : `var(--series-${(trace.place % 6) + 1})`;
      const places = trace.x.map((x, i) => (this.usable(trace.y[i]) ? [this.across(x), this.down(trace.y[i])] : null));
      if (trace.kind === "points") {
        const few = places.length <= 20;
        for (const place of places) {
          if (place) drawn("circle", { cx: place[0], cy: place[1], r: few ? 4.5 : 2.8, fill: colour, "fill-opacity": few ? 1 : 0.6 }, group);
        }
      } else if (trace.kind === "bars") {
        const step = trace.x.length > 1 ? Math.abs(this.across(trace.x[1]) - this.across(trace.x[0])) : 60;
        const floor = HEIGHT - EDGE.bottom;
        for (const place of places) {
          if (!place) continue;
          const bar = { x: place[0] - 0.4 * step, width: 0.8 * step, y: place[1], height: Math.max(0, floor - place[1]) };
          drawn("rect", { ...bar, fill: colour }, group);
        }
      } else {
        let path = "";
        let pen = "M";
        for (const place of places) {
          path += place ? `${pen}${place[0].toFixed(1)} ${place[1].toFixed(1)}` : "";
          pen = place ? "L" : "M";
        }
        const guide = trace.kind === "guide";
        const dash = guide ? "4 4" : DASHES[trace.place % DASHES.length];
        drawn("path", { d: path, fill: "none", stroke: colour, "stroke-width": guide ? 1 : 1.8, "stroke-dasharray": dash }, group);
        const lonely = places.filter(Boolean);
        if (lonely.length === 1) drawn("circle", { cx: lonely[0][0], cy: lonely[0][1], r: 3, fill: colour }, group);
      }
    }

    // -- cursor ----------------------------------------------------------------------------------------------
    // Lines are read at one position for all traces; points one by one, in the order of their positions.
    stops() {
      const shown = this.traces.filter((trace) => trace.shown && trace.kind !== "guide");
      const [low, high] = this.span.x;
      if (this.cloud) {
        const found = shown.flatMap((trace) => trace.x.map((x, i) => ({ x, y: trace.y[i], i, trace })));
        return found.filter((stop) => this.usable(stop.y) && stop.x >= low && stop.x <= high).sort((a, b) => a.x - b.x);
      }
      const places = new Set(shown.flatMap((trace) => trace.x));
      return [...places].filter((x) => x >= low && x <= high).sort((a, b) => a - b).map((x) => ({ x }));
    }

    texts(stop) {
      if (stop.trace) {
        const label = stop.trace.labels.length ? stop.trace.labels[stop.i] : stop.trace.name;
        return [label, `${this.told.x}: ${words(stop.x)}`, `${this.told.y}: ${words(stop.y)}`];
      }
      const found = [`${this.told.x}: ${words(stop.x)}`];
      for (const trace of this.traces) {
        const i = trace.shown && trace.kind !== "guide" ? trace.x.indexOf(stop.x) : -1;
        if (i >= 0) found.push(`${trace.name}: ${words(trace.y[i])}`);
      }
      return found;
    }

    point(stop, speak) {
      this.at = stop;
      this.cursor.replaceChildren();
      this.tip.hidden = !stop;
      if (!stop) return;
      const x = this.across(stop.x);
      if (stop.trace) drawn("circle", { cx: x, cy: this.down(stop.y), r: 6 }, this.cursor);
      else drawn("line", { x1: x, x2: x, y1: EDGE.top, y2: HEIGHT - EDGE.bottom }, this.cursor);
      const texts = this.texts(stop);
      this.tip.replaceChildren(...texts.map((text) => element("div", {}, null, text)));
      const scale = this.stage.clientWidth / this.svg.viewBox.baseVal.width || 1;
      const left = x * scale > this.stage.clientWidth / 2;
      this.tip.style.left = left ? "" : `${x * scale + 10}px`;
      this.tip.style.right = left ? `${this.stage.clientWidth - x * scale + 10}px` : "";
      if (speak) this.live.textContent = texts.join(", ");
    }

    nearest(x, y) {
      let best = null;
      let least = Infinity;
      for (const stop of this.stops()) {
        const away = Math.abs(this.across(stop.x) - x) + (stop.trace ? Math.abs(this.down(stop.y) - y) : 0);
        if (away < least) [best, least] = [stop, away];
      }
      return best;
    }

    move(steps) {
      const stops = this.stops();
      if (!stops.length) return;
      const same = (stop) => this.at && stop.x === this.at.x && stop.trace === this.at.trace && stop.i === this.at.i;
      const now = stops.findIndex(same);
      const next = now < 0 ? (steps > 0 ? 0 : stops.length - 1) : Math.min(stops.length - 1, Math.max(0, now + steps));
      this.point(stops[next], true);
    }

    // -- zoom ------------------------------------------------------------------------------------------------
    zoom(factor) {
      const [low, high] = this.span.x;
      const centre = this.at ? this.at.x : (low + high) / 2;
      this.show({ x: [centre - (centre - low) * factor, centre + (high - centre) * factor], y: null });
    }

    show(box) {
      const kept = this.at;
      this.box = box;
      this.draw();
      if (kept && kept.x >= this.span.x[0] && kept.x <= this.span.x[1]) this.point(kept);
    }

    reset() {
      this.show(null);
      this.live.textContent = "All values are shown.";
    }

    listen() {
      const place = (event) => {
        const bounds = this.svg.getBoundingClientRect();
        const scale = this.svg.viewBox.baseVal.width / bounds.width;
        return [(event.clientX - bounds.left) * scale, (event.clientY - bounds.top) * scale];
      };
      let start = null;
      this.stage.addEventListener("pointerdown", (event) => {
        if (event.button === 0 && event.pointerType !== "touch") start = place(event);
      });
      this.stage.addEventListener("pointermove", (event) => {
        const [x, y] = place(event);
        if (start) this.choose(start, [x, y]);
        else this.point(this.nearest(x, y));
      });
      this.stage.addEventListener("pointerup", (event) => {
        const end = place(event);
        if (start && Math.abs(end[0] - start[0]) > 6) this.take(start, end);
        else if (start) this.frame.setAttribute("width", 0);
        start = null;
      });
      this.stage.addEventListener("pointerleave", () => {
        start = null;
        this.frame.setAttribute("width", 0);
        if (document.activeElement !== this.stage) this.point(null);
      });
      this.stage.addEventListener("blur", () => this.point(null));
      this.stage.addEventListener("dblclick", () => this.reset());
      this.stage.addEventListener("keydown", (event) => {
        const action = this.action(event.key);
        if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
        action();
        event.preventDefault();
      });
    }

    action(key) {
      const far = Math.max(1, Math.round(this.stops().length / 10));
      return {
        ArrowRight: () => this.move(1),
        ArrowLeft: () => this.move(-1),
        PageUp: () => this.move(far),
        PageDown: () => this.move(-far),
        Home: () => this.move(-1e9),
        End: () => this.move(1e9),
        "+": () => this.zoom(0.6),
        "=": () => this.zoom(0.6),
        "-": () => this.zoom(1 / 0.6),
        Escape: () => this.reset(),
      }[key];
    }

    choose(from, to) {
      const [left, right] = [from[0], to[0]].sort((a, b) => a - b);
      const [top, bottom] = this.cloud ? [from[1], to[1]].sort((a, b) => a - b) : [EDGE.top, HEIGHT - EDGE.bottom];
      const box = { x: left, y: top, width: right - left, height: bottom - top };
      for (const [key, value] of Object.entries(box)) this.frame.setAttribute(key, value);
    }

    take(from, to) {
      const back = (place, ends, size, edge) => ends[0] + ((place - edge) / size) * (ends[1] - ends[0]);
      const x = [from[0], to[0]].map((p) => back(p, this.span.x, this.inner.width, EDGE.left)).sort((a, b) => a - b);
      const flip = (p) => back(EDGE.top + this.inner.height - (p - EDGE.top), this.span.y, this.inner.height, EDGE.top);
      const y = [from[1], to[1]].map(flip).sort((a, b) => a - b);
      const tall = this.cloud && Math.abs(to[1] - from[1]) > 6;
      this.show({ x, y: tall ? y : null });
    }
  }

  const schemes = () => {
    const root = document.documentElement;
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const now = () => root.dataset.scheme || (dark.matches ? "dark" : "light");
    const button = element("button", { type: "button", class: "scheme" });
    const name = () => (button.textContent = now() === "dark" ? "light page" : "dark page");
    button.addEventListener("click", () => {
      root.dataset.scheme = now() === "dark" ? "light" : "dark";
      name();
    });
    dark.addEventListener("change", name);
    name();
    document.querySelector("main").prepend(button);
  };

  for (const figure of document.querySelectorAll("figure[data-plot]")) new Plot(figure);
  schemes();
})();
