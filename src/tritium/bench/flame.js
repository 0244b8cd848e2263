"use strict";
(() => {
  const svg = document.documentElement;
  const frames = [...svg.querySelectorAll(".f")].map((g) => ({
    g, rect: g.querySelector("rect"), text: g.querySelector("text"), name: g.dataset.n, detail: g.dataset.d,
    x: +g.dataset.x, w: +g.dataset.w, depth: +g.dataset.y,
  }));
  const left = +svg.dataset.left, width = +svg.dataset.width, total = +svg.dataset.total, unit = svg.dataset.unit;
  const tip = svg.getElementById("tip"), tipBox = tip.querySelector("rect"), tipText = [...tip.querySelectorAll("text")];
  const reset = svg.getElementById("reset"), find = svg.getElementById("find"), found = svg.getElementById("found");
  const ticks = [...svg.querySelectorAll(".tick")];
  const CHARACTER = 7.1;

  const amount = (v) => {
    if (unit !== "ns") return `${Math.round(v).toLocaleString("en")} ${unit}`;
    const [n, u] = v >= 1e9 ? [v / 1e9, "s"] : v >= 1e6 ? [v / 1e6, "ms"] : v >= 1e3 ? [v / 1e3, "µs"] : [v, "ns"];
    return `${+n.toPrecision(4)} ${u}`;
  };
  const fit = (name, pixels) => {
    const n = Math.floor((pixels - 8) / CHARACTER);
    return n >= name.length ? name : n < 6 ? "" : name.slice(0, n - 1) + "…";
  };

  // Everything is drawn as the part [from, from + span] of the whole.
  const show = (from, span, depth) => {
    for (const f of frames) {
      const a = Math.max(0, (f.x - from) / span), b = Math.min(1, (f.x + f.w - from) / span);
      const pixels = Math.max(0, b - a) * width;
      f.g.style.display = pixels > 0.05 ? "" : "none";
      f.rect.setAttribute("x", left + a * width);
      f.rect.setAttribute("width", pixels);
      f.text.setAttribute("x", left + a * width + 5);
      f.text.textContent = fit(f.name, pixels);
      f.g.classList.toggle("off", f.depth < depth);
    }
    ticks.forEach((t, i) => { t.textContent = amount((i / (ticks.length - 1)) * span * total); });
    reset.style.display = span < 1 ? "" : "none";
  };

  const search = (term) => {
    let pattern = null;
    try { pattern = term ? new RegExp(term, "i") : null; } catch { pattern = null; }
    let covered = 0, end = -1;
    const hits = frames.filter((f) => pattern && pattern.test(f.name));
    for (const f of frames) f.g.classList.toggle("match", hits.includes(f));
    for (const f of hits.sort((a, b) => a.x - b.x || b.w - a.w)) {
      if (f.x + f.w > end + 1e-12) { covered += f.x + f.w - Math.max(f.x, end); end = f.x + f.w; }
    }
    found.textContent = pattern ? `“${term}”: ${(100 * covered).toFixed(2)} %` : "";
  };
  const ask = () => search(prompt("Search for (a regular expression; nothing clears):") || "");

  const hover = (f, event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const lines = [f.name, ...f.detail.split("\n")];
    tipText.forEach((t, i) => { t.textContent = lines[i] || ""; });
    tip.style.display = "";
    const size = Math.max(...tipText.map((t) => t.getComputedTextLength())) + 20;
    const height = 14 + 17 * lines.length, box = svg.viewBox.baseVal;
    const x = Math.min(point.x + 14, box.width - size - 6);
    const y = point.y + 20 + height > box.height ? point.y - height - 10 : point.y + 20;
    tipBox.setAttribute("width", size);
    tipBox.setAttribute("height", height);
    tip.setAttribute("transform", `translate(${x},${y})`);
  };

  for (const f of frames) {
    f.g.querySelector("title")?.remove();
    f.g.addEventListener("click", () => show(f.x, f.w, f.depth));
    f.g.addEventListener("mousemove", (event) => hover(f, event));
    f.g.addEventListener("mouseleave", () => { tip.style.display = "none"; });
  }
  find.style.display = "";
  find.addEventListener("click", ask);
  reset.addEventListener("click", () => show(0, 1, 0));
  window.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { show(0, 1, 0); search(""); }
    if ((event.ctrlKey || event.metaKey) && event.key === "f") { event.preventDefault(); ask(); }
  });
  svg.getElementById("hint").textContent = "Hover for figures · click to zoom · Esc to reset";
  show(0, 1, 0);
})();
