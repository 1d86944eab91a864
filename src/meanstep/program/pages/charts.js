// Our charts by uPlot: values under the pointer, curves that switch off at their names, colours of the page by day and night.
(() => {
  const night = matchMedia("(prefers-color-scheme: dark)");
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const mix = (hex) => {
    if (!night.matches) return hex;
    const parts = [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16)), light = parts[0] * 0.3 + parts[1] * 0.59 + parts[2] * 0.11;
    const share = light > 150 ? 0 : light > 90 ? 0.3 : 0.5;
    return "rgb(" + parts.map((x) => Math.round(x + (255 - x) * share)).join(",") + ")";
  };
  const written = (x) => (x === null || x === undefined ? "–" : x === 0 ? "0" : Math.abs(x) >= 1e4 ? Math.round(x).toLocaleString("en") : String(Number(x.toPrecision(3))));
  const range = (axis) => (u, low, high) => [axis.low, axis.high];
  const aligned = (panel) => {
    const xs = [...new Set(panel.curves.flatMap((c) => c.x))].sort((a, b) => a - b), at = new Map(xs.map((x, k) => [x, k]));
    const spread = (c, values) => { const out = xs.map(() => undefined); c.x.forEach((x, k) => { if (values.length) out[at.get(x)] = values[k]; }); return out; };
    return { data: [xs, ...panel.curves.map((c) => spread(c, c.y))], low: panel.curves.map((c) => spread(c, c.low)), high: panel.curves.map((c) => spread(c, c.high)) };
  };
  const edges = (panel, found) => (u) => {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.beginPath(); ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height); ctx.clip();
    const X = (x) => u.valToPos(x, "x", true), Y = (y) => u.valToPos(y, "y", true);
    panel.guides.forEach((g) => {
      ctx.fillStyle = ctx.strokeStyle = style("--soft"); ctx.lineWidth = devicePixelRatio; ctx.setLineDash(g.dashed ? [4, 4] : []);
      if (g.to !== g.at) { ctx.globalAlpha = 0.25; ctx.fillRect(bbox.left, Y(Math.max(g.at, g.to)), bbox.width, Math.max(2, Math.abs(Y(g.at) - Y(g.to)))); ctx.globalAlpha = 1; return; }
      ctx.beginPath();
      if (g.axis === "y") { ctx.moveTo(bbox.left, Y(g.at)); ctx.lineTo(bbox.left + bbox.width, Y(g.at)); }
      else { ctx.moveTo(X(g.at), bbox.top); ctx.lineTo(X(g.at), bbox.top + bbox.height); }
      ctx.stroke();
    });
    ctx.setLineDash([]);
    panel.curves.forEach((c, k) => {
      if (!c.low.length || !u.series[k + 1].show) return;
      const known = u.data[0].map((x, i) => [x, found.low[k][i], found.high[k][i]]).filter((p) => p[1] !== null && p[1] !== undefined);
      ctx.strokeStyle = ctx.fillStyle = mix(c.colour);
      if (c.bars) {
        ctx.globalAlpha = 0.3; ctx.lineWidth = 6 * devicePixelRatio;
        known.forEach(([x, low, high]) => { ctx.beginPath(); ctx.moveTo(X(x), Y(low)); ctx.lineTo(X(x), Y(high)); ctx.stroke(); });
      } else if (known.length) {
        ctx.globalAlpha = 0.15; ctx.beginPath();
        known.forEach(([x, low], i) => (i ? ctx.lineTo(X(x), Y(low)) : ctx.moveTo(X(x), Y(low))));
        [...known].reverse().forEach(([x, , high]) => ctx.lineTo(X(x), Y(high)));
        ctx.fill();
      }
      ctx.globalAlpha = 1;
    });
    ctx.restore();
  };
  const axis = (a, own) => {
    // ticks were chosen for a wide picture: on a narrow one every second, or third, is written
    const words = (u) => { const each = own.side === 2 ? Math.max(1, Math.ceil(a.ticks.length * 52 / Math.max(u.width, 1))) : 1; return a.words.map((word, k) => (k % each ? "" : word)); };
    return { stroke: () => style("--soft"), font: "12px system-ui", labelFont: "12px system-ui", label: a.label || undefined, labelSize: 18,
      grid: { stroke: () => style("--line"), width: 1, show: own.side === 3 }, ticks: { stroke: () => style("--line"), size: 4 },
      ...(a.ticks.length ? { splits: () => a.ticks, values: words, filter: (u, s) => s } : {}), ...own };
  };
  const plot = (holder, panel) => {
    const found = aligned(panel), said = (k) => (u, y, s, i) => {
      const low = found.low[k][i], high = found.high[k][i];
      return written(y) + (low !== null && low !== undefined && y !== null && y !== undefined ? " [" + written(low) + ", " + written(high) + "]" : "");
    };
    const wide = () => Math.max(220, holder.clientWidth);
    const u = new uPlot({
      width: wide(), height: Math.round(Math.min(300, 140 + wide() * 0.3)),
      scales: { x: { time: false, range: range(panel.x), distr: panel.x.log ? 3 : 1 }, y: { range: range(panel.y), distr: panel.y.log ? 3 : 1 } },
      axes: [axis(panel.x, { side: 2, size: 30 }), axis(panel.y, { side: 3, size: 54 })],
      cursor: { drag: { x: false, y: false }, focus: { prox: 24 } },
      series: [{ label: panel.x.label || "x", value: (u, x) => written(x) }, ...panel.curves.map((c, k) => ({
        label: c.name, stroke: () => mix(c.colour), width: c.dots ? 0 : 2, dash: c.dashed ? [5, 4] : undefined, spanGaps: true, value: said(k),
        paths: c.dots ? () => null : undefined, points: { show: c.dots || c.x.length < 25, size: c.dots ? 8 : 5, fill: () => mix(c.colour), stroke: () => mix(c.colour) } }))],
      hooks: { drawClear: [edges(panel, found)] },
    }, found.data, holder);
    const rows = [...holder.querySelectorAll(".u-legend .u-series")].slice(1);
    rows.forEach((row, k) => {
      const name = row.querySelector("th");
      name.tabIndex = 0; name.setAttribute("role", "button"); name.setAttribute("aria-pressed", "true"); name.title = "show or hide";
      const told = () => name.setAttribute("aria-pressed", String(u.series[k + 1].show));
      name.addEventListener("click", () => setTimeout(told));
      name.addEventListener("keydown", (e) => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); u.setSeries(k + 1, { show: !u.series[k + 1].show }); told(); } });
    });
    new ResizeObserver(() => { if (holder.clientWidth && u.width !== wide()) u.setSize({ width: wide(), height: u.height }); }).observe(holder);
    night.addEventListener("change", () => u.redraw(false));
    return u;
  };
  window.meanstepCharts = [];
  const start = (figure) => {
    JSON.parse(figure.querySelector("script").textContent).panels.forEach((panel) => {
      const box = document.createElement("div"), title = document.createElement("p");
      box.className = "panel"; title.className = "see"; title.textContent = panel.title;
      if (panel.title) box.append(title);
      const holder = document.createElement("div");
      box.append(holder); figure.append(box);
      window.meanstepCharts.push(plot(holder, panel));
    });
  };
  // a chart in a folded part has no width: it is drawn when the part opens
  document.querySelectorAll("figure.chart").forEach((figure) => {
    const part = figure.closest("details");
    if (!part || part.open) start(figure);
    else part.addEventListener("toggle", () => { if (!figure.querySelector(".panel")) start(figure); });
  });
})();
