"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const root = document.documentElement;

  // Colours: the system's, unless the others were chosen; a file may be refused storage.
  const theme = byId("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const systems = () => (system.matches ? "dark" : "light");
  const others = { dark: "light", light: "dark" };
  const show = (name) => {
    if (name === systems()) delete root.dataset.theme;
    else root.dataset.theme = name;
    theme.textContent = others[name] === "dark" ? "Use dark colours" : "Use light colours";
  };
  const shownTheme = () => root.dataset.theme || systems();
  let kept = null;
  try { kept = localStorage.getItem("itm-fast-theme"); } catch { /* no storage */ }
  show(kept in others ? kept : systems());
  system.addEventListener("change", () => show(shownTheme()));
  theme.hidden = false;
  theme.addEventListener("click", () => {
    show(others[shownTheme()]);
    try {
      if (root.dataset.theme) localStorage.setItem("itm-fast-theme", root.dataset.theme);
      else localStorage.removeItem("itm-fast-theme");
    } catch { /* no storage */ }
  });

  // What is wider than its box: on which sides there is more.
  const hint = (scroll) => {
    const sides = [];
    if (scroll.scrollLeft > 1) sides.push("left");
    if (scroll.scrollLeft + scroll.clientWidth < scroll.scrollWidth - 1) sides.push("right");
    scroll.parentElement.dataset.more = sides.join(" ");
  };
  const resized = new ResizeObserver((entries) => { for (const entry of entries) hint(entry.target); });
  const watch = (element) => { for (const scroll of element.querySelectorAll(".scroll")) resized.observe(scroll); };
  document.addEventListener("scroll", (event) => { if (event.target !== document) hint(event.target); }, { capture: true, passive: true });
  watch(document);

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
  const more = byId("more");
  const atATime = Number(more.dataset.step);
  const total = Number(list.dataset.total);
  const examples = [];
  const add = (element) => examples.push({
    element,
    place: examples.length,
    text: element.textContent.toLowerCase(),
    direction: element.dataset.direction,
    number: Number(element.dataset.number),
    rank: Number(element.dataset.rank),
    tags: element.dataset.tags.split(" "),
  });
  // The first ones are open; the rest is text, the content of a noscript, until it is asked for.
  let rest = byId("rest");
  const load = () => {
    if (!rest) return;
    const held = document.createElement("template");
    held.innerHTML = rest.textContent;
    rest.remove();
    rest = null;
    for (const element of [...held.content.children]) add(element);
  };
  for (const element of list.querySelectorAll(":scope > .example")) add(element);
  const byFile = (a, b) => (a.direction < b.direction ? -1 : a.direction > b.direction ? 1 : a.number - b.number);
  const orders = {
    worst: (a, b) => b.rank - a.rank || a.place - b.place,
    best: (a, b) => a.rank - b.rank || a.place - b.place,
    file: byFile,
  };
  let shown = examples; // those that fit, in order
  let open = examples.length; // how many of them are in the page
  let current = -1;

  const tell = () => {
    const n = rest ? total : shown.length;
    byId("count").textContent = `${n} of ${total} examples`;
    more.hidden = open >= n;
    more.textContent = `Show ${Math.min(atATime, n - open)} more: ${open} of ${n} are open`;
  };
  const openMore = () => {
    load();
    for (const one of shown.slice(open, open + atATime)) {
      list.append(one.element);
      watch(one.element);
    }
    open = Math.min(open + atATime, shown.length);
    tell();
  };
  const update = () => {
    load();
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
    shown = examples.filter(fits).sort(orders[byId("order").value]);
    shown.forEach((one, place) => { one.element.tabIndex = place ? -1 : 0; });
    open = 0;
    current = -1;
    list.replaceChildren();
    openMore();
  };
  const step = (by) => {
    const at = shown.findIndex((one) => one.element.contains(document.activeElement));
    if (at >= 0) current = at;
    if (current + by >= open) openMore();
    if (!shown.length) return;
    current = Math.min(shown.length - 1, Math.max(0, current + by));
    shown.forEach((one, place) => { one.element.tabIndex = place === current ? 0 : -1; });
    shown[current].element.focus();
    shown[current].element.scrollIntoView({ block: "nearest" });
  };
  more.addEventListener("click", () => {
    const first = open;
    openMore();
    shown[first].element.focus();
  });

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
  tell();
})();
