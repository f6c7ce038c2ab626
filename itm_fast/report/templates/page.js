"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const root = document.documentElement;

  // Colours: the system's, until one is chosen; a file may be refused storage.
  const theme = byId("theme");
  const themes = { auto: "Auto", light: "Light", dark: "Dark" };
  const spoken = { auto: "as the system", light: "light", dark: "dark" };
  let chosen = "auto";
  const show = (name) => {
    chosen = name;
    if (name === "auto") delete root.dataset.theme;
    else root.dataset.theme = name;
    theme.textContent = themes[name];
    theme.setAttribute("aria-label", `Colours: ${spoken[name]}`);
  };
  try {
    const kept = localStorage.getItem("itm-fast-theme");
    if (kept in themes) show(kept);
  } catch { /* no storage */ }
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const names = Object.keys(themes);
    show(names[(names.indexOf(chosen) + 1) % names.length]);
    try { localStorage.setItem("itm-fast-theme", chosen); } catch { /* no storage */ }
  });

  // Attention: the regions that a word looked at, over the image.
  for (const map of document.querySelectorAll(".attention")) {
    const rects = [...map.querySelectorAll(".boxes rect")];
    const words = [...map.querySelectorAll(".word")];
    for (const word of words) {
      word.addEventListener("click", () => {
        const pressed = word.getAttribute("aria-pressed") !== "true";
        for (const other of words) other.setAttribute("aria-pressed", String(pressed && other === word));
        const weights = [...word.closest("tr").querySelectorAll("td")].map((cell) => Number(cell.style.getPropertyValue("--w")));
        rects.forEach((rect, region) => { rect.style.opacity = pressed ? weights[region] : 0; });
      });
    }
  }

  const filter = byId("filter");
  if (!filter) return;
  const list = byId("list");
  const examples = [...list.children].map((element, place) => ({
    element,
    place,
    text: element.textContent.toLowerCase(),
    direction: element.dataset.direction,
    number: Number(element.dataset.number),
    rank: Number(element.dataset.rank),
    tags: element.dataset.tags.split(" "),
  }));
  const byFile = (a, b) => (a.direction < b.direction ? -1 : a.direction > b.direction ? 1 : a.number - b.number);
  const orders = {
    worst: (a, b) => b.rank - a.rank || a.place - b.place,
    best: (a, b) => a.rank - b.rank || a.place - b.place,
    file: byFile,
  };
  let shown = examples;
  let current = 0;

  const update = () => {
    const words = byId("words").value.toLowerCase().split(/\s+/).filter(Boolean);
    const direction = byId("direction").value;
    const outcome = byId("outcome").value;
    const least = Number(byId("least").value) || 1;
    const most = Number(byId("most").value) || Infinity;
    const fits = (one) =>
      words.every((word) => one.text.includes(word)) &&
      (!direction || one.direction === direction) &&
      (!outcome || one.tags.includes(outcome)) &&
      one.rank >= least && one.rank <= most;
    for (const one of examples) one.element.hidden = !fits(one);
    shown = examples.filter((one) => !one.element.hidden).sort(orders[byId("order").value]);
    list.append(...shown.map((one) => one.element));
    byId("count").textContent = `${shown.length} of ${examples.length} examples`;
    current = -1;
    shown.forEach((one, place) => { one.element.tabIndex = place ? -1 : 0; });
  };
  const step = (by) => {
    if (!shown.length) return;
    const at = shown.findIndex((one) => one.element.contains(document.activeElement));
    if (at >= 0) current = at;
    current = Math.min(shown.length - 1, Math.max(0, current + by));
    shown.forEach((one, place) => { one.element.tabIndex = place === current ? 0 : -1; });
    shown[current].element.focus();
    shown[current].element.scrollIntoView({ block: "nearest" });
  };

  filter.hidden = false;
  filter.addEventListener("input", update);
  filter.addEventListener("reset", () => setTimeout(update));
  filter.addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const target = event.target;
    if (event.key === "Escape" && filter.contains(target)) {
      filter.reset();
      target.blur();
      return;
    }
    if (target.matches("input, select, textarea")) return;
    if (event.key === "/") {
      byId("words").focus();
      byId("words").select();
    } else if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
    else if (event.key === "ArrowDown" && target.closest(".example")) step(1);
    else if (event.key === "ArrowUp" && target.closest(".example")) step(-1);
    else return;
    event.preventDefault();
  });
  update();
})();
