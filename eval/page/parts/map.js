// The map of the embeddings: points on a canvas that can be zoomed, moved and asked.
(() => {
  const source = document.getElementById("map-data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const canvas = document.getElementById("map-canvas");
  const tip = document.getElementById("map-tip");
  const live = document.getElementById("map-live");
  const sheet = document.getElementById("map-sheet");
  const chooser = document.getElementById("map-class");
  const context = canvas.getContext("2d");
  const KINDS = ["in the index", "query, first answer right", "query, first answer wrong",
    "query without a right answer"];
  const EXTENT = 10000, MARGIN = 24, MOST = 64, REACH = 16, PICTURES = 70;
  const count = data.ids.length;
  const shown = [true, true, true, true];
  const pointers = new Map();
  let width = 0, height = 0, scale = 1, left = 0, top = 0;  // pixels = left + base * scale * x
  let selected = -1, chosen = -1, waiting = false, moved = 0, colours = null;

  const base = () => (Math.min(width, height) - 2 * MARGIN) / EXTENT;
  const screenX = (point) => left + data.x[point] * base() * scale;
  const screenY = (point) => top + (EXTENT - data.y[point]) * base() * scale;
  const isShown = (point) => shown[data.kind[point]];

  function readColours() {
    const style = getComputedStyle(document.documentElement);
    const value = (name) => style.getPropertyValue(name).trim();
    const light = value("--light");
    // Golden angle: neighbours in the list of classes are far apart in hue.
    const hue = (number) => `hsl(${(number * 137.508) % 360} 65% ${light})`;
    colours = {ink: value("--ink"), muted: value("--muted"), paper: value("--paper"),
      classes: data.names.map((name, number) => (name ? hue(number) : value("--muted")))};
  }

  function fit() {
    scale = 1;
    left = (width - EXTENT * base()) / 2;
    top = (height - EXTENT * base()) / 2;
  }

  function resize() {
    const box = canvas.getBoundingClientRect();
    if (!box.width || !box.height) return;
    const [x, y, before] = [(width / 2 - left) / scale, (height / 2 - top) / scale, base()];
    const first = width === 0;
    [width, height] = [box.width, box.height];
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (first || scale === 1) fit();
    else {
      left = width / 2 - (x * scale * base()) / before;
      top = height / 2 - (y * scale * base()) / before;
    }
    draw();
  }

  function zoom(factor, x = width / 2, y = height / 2) {
    const next = Math.min(MOST, Math.max(1, scale * factor));
    if (next === 1) fit();
    else {
      left = x - ((x - left) * next) / scale;
      top = y - ((y - top) * next) / scale;
      scale = next;
    }
    canvas.classList.toggle("zoomed", scale > 1);
    draw();
  }

  function mark(point, x, y, size) {
    const kind = data.kind[point];
    context.beginPath();
    if (kind === 0) {
      context.arc(x, y, size, 0, 7);
      context.fill();
    } else if (kind === 1) {
      context.arc(x, y, size * 1.15, 0, 7);
      context.stroke();
    } else {
      const [a, b] = kind === 2 ? [size, size] : [size * 1.4, 0];
      context.moveTo(x - a, y - b);
      context.lineTo(x + a, y + b);
      context.moveTo(x - b, y + a);
      context.lineTo(x + b, y - a);
      context.stroke();
    }
  }

  function picture(target, point, x, y, size) {
    const cell = data.cells[point];
    target.drawImage(sheet, (cell % data.columns) * data.cell,
      Math.floor(cell / data.columns) * data.cell, data.cell, data.cell, x, y, size, size);
  }

  function paint() {
    waiting = false;
    context.clearRect(0, 0, width, height);
    const size = Math.min(6, 2.4 * Math.pow(scale, 0.3)) * (width < 500 ? 0.85 : 1);
    const inside = [];
    for (let point = 0; point < count; point++) {
      const [x, y] = [screenX(point), screenY(point)];
      const out = x < -40 || y < -40 || x > width + 40 || y > height + 40;
      if (!out && isShown(point)) inside.push(point);
    }
    const asPictures = sheet && sheet.complete && inside.length <= PICTURES;
    const hasPicture = (point) => asPictures && data.cells[point] >= 0;
    const of = selected >= 0 ? data.class[selected] : -1;
    for (const pass of [0, 1]) {
      for (const point of inside) {
        const group = data.class[point];
        const isFront = group === chosen || (group === of && data.names[group] !== "");
        if (isFront !== (pass === 1)) continue;
        const [x, y] = [screenX(point), screenY(point)];
        context.globalAlpha = chosen >= 0 && group !== chosen ? 0.13 : 1;
        context.strokeStyle = context.fillStyle = colours.classes[group];
        context.lineWidth = 1.6;
        if (hasPicture(point)) {
          picture(context, point, x - 20, y - 20, 40);
          context.lineWidth = 3;
          context.strokeRect(x - 20, y - 20, 40, 40);
        } else mark(point, x, y, isFront ? size * 1.35 : size);
        if (isFront && group === of && !hasPicture(point)) outline(x, y, size * 1.35 + 2.5, 1);
      }
    }
    context.globalAlpha = 1;
    if (selected >= 0 && isShown(selected)) {
      outline(screenX(selected), screenY(selected), hasPicture(selected) ? 31 : size + 6, 2.5);
    }
    place();
  }

  function outline(x, y, radius, line) {
    context.beginPath();
    context.arc(x, y, radius, 0, 7);
    context.strokeStyle = colours.ink;
    context.lineWidth = line;
    context.stroke();
  }

  function draw() {
    if (!waiting) requestAnimationFrame(paint);
    waiting = true;
  }

  function nearest(x, y) {
    let best = -1, least = REACH * REACH;
    for (let point = 0; point < count; point++) {
      if (!isShown(point) || (chosen >= 0 && data.class[point] !== chosen)) continue;
      const distance = (screenX(point) - x) ** 2 + (screenY(point) - y) ** 2;
      if (distance < least) [best, least] = [point, distance];
    }
    return best;
  }

  function select(point, aloud = false) {
    if (point === selected) return;
    selected = point;
    tip.hidden = point < 0;
    if (point >= 0) {
      const name = data.names[data.class[point]];
      const words = [data.ids[point], name ? `class ${name}` : "", KINDS[data.kind[point]]];
      tip.querySelector(".id").textContent = words[0];
      tip.querySelector(".class").textContent = words[1];
      tip.querySelector(".kind").textContent = words[2];
      const small = tip.querySelector("canvas");
      small.hidden = !sheet || data.cells[point] < 0;
      if (!small.hidden) picture(small.getContext("2d"), point, 0, 0, small.width);
      if (aloud) live.textContent = words.filter(Boolean).join(", ");
    }
    draw();
  }

  // Beside the point, inside the frame.
  function place() {
    if (selected < 0) return;
    const [x, y] = [screenX(selected), screenY(selected)];
    const hide = !isShown(selected) || x < 0 || y < 0 || x > width || y > height;
    tip.hidden = hide;
    if (hide) return;
    const [w, h] = [tip.offsetWidth, tip.offsetHeight];
    const across = x + 16 + w < width ? x + 16 : x - 16 - w;
    tip.style.left = `${Math.max(4, Math.min(across, width - w - 4))}px`;
    tip.style.top = `${Math.max(4, Math.min(y - h / 2, height - h - 4))}px`;
  }

  // The nearest point in a direction; sideways counts twice.
  function step(dx, dy) {
    const x = selected < 0 ? width / 2 : screenX(selected);
    const y = selected < 0 ? height / 2 : screenY(selected);
    let best = selected, least = Infinity;
    for (let point = 0; point < count; point++) {
      if (point === selected || !isShown(point)) continue;
      if (chosen >= 0 && data.class[point] !== chosen) continue;
      const [a, b] = [screenX(point) - x, screenY(point) - y];
      const along = a * dx + b * dy;
      const aside = Math.abs(a * dy - b * dx);
      if (selected >= 0 && (along <= 0 || aside > 2 * along)) continue;
      const distance = selected < 0 ? Math.hypot(a, b) : along + 2 * aside;
      if (distance < least) [best, least] = [point, distance];
    }
    select(best, true);
    if (best < 0) return;
    const [a, b] = [screenX(best), screenY(best)];
    if (a < 20 || b < 20 || a > width - 20 || b > height - 20) {
      left += width / 2 - a;
      top += height / 2 - b;
    }
    draw();
  }

  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  canvas.addEventListener("pointerdown", (event) => {
    if (pointers.size === 0) moved = 0;
    pointers.set(event.pointerId, at(event));
    canvas.setPointerCapture(event.pointerId);
    canvas.classList.add("dragged");
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = at(event);
    const before = pointers.get(event.pointerId);
    if (!before) {
      if (event.pointerType === "mouse") select(nearest(x, y));
      return;
    }
    const others = [...pointers].filter(([id]) => id !== event.pointerId);
    if (others.length) {
      const [, [u, v]] = others[0];
      const [old, now] = [Math.hypot(before[0] - u, before[1] - v), Math.hypot(x - u, y - v)];
      moved += 100;
      if (old > 0) zoom(now / old, (x + u) / 2, (y + v) / 2);
    } else if (scale > 1) {
      left += x - before[0];
      top += y - before[1];
      moved += Math.abs(x - before[0]) + Math.abs(y - before[1]);
      draw();
    }
    pointers.set(event.pointerId, [x, y]);
  });
  const release = (event) => {
    const known = pointers.delete(event.pointerId);
    if (pointers.size === 0) canvas.classList.remove("dragged");
    if (known && event.type === "pointerup" && moved < 8) select(nearest(...at(event)));
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse" && !pointers.size) select(-1);
  });
  let scrolled = -Infinity;
  addEventListener("scroll", () => (scrolled = performance.now()), {passive: true});
  canvas.addEventListener("wheel", (event) => {
    // Who scrolls the page is not held up by a map that comes under the pointer.
    const passing = performance.now() - scrolled < 400;
    if (scale === 1 && (event.deltaY > 0 || passing)) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0018)), ...at(event));
  }, {passive: false});
  canvas.addEventListener("dblclick", (event) => zoom(2, ...at(event)));
  canvas.addEventListener("keydown", (event) => {
    const keys = {ArrowLeft: () => step(-1, 0), ArrowRight: () => step(1, 0),
      ArrowUp: () => step(0, -1), ArrowDown: () => step(0, 1), "+": () => zoomAt(1.5),
      "=": () => zoomAt(1.5), "-": () => zoomAt(1 / 1.5), 0: () => zoom(0), Escape: () => select(-1)};
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  });

  function zoomAt(factor) {
    if (selected >= 0) zoom(factor, screenX(selected), screenY(selected));
    else zoom(factor);
  }

  const frame = document.getElementById("map-frame");
  for (const button of frame.querySelectorAll("[data-zoom]")) {
    const factor = {in: 1.6, out: 1 / 1.6, all: 0}[button.dataset.zoom];
    button.addEventListener("click", () => (factor ? zoomAt(factor) : zoom(0)));
  }
  for (const box of frame.querySelectorAll("[data-kind]")) {
    box.checked = true;  // some browsers keep what it was before a reload
    box.addEventListener("change", () => {
      shown[box.dataset.kind] = box.checked;
      draw();
    });
  }
  if (chooser) {
    data.names.forEach((name, number) => {
      if (name) chooser.append(new Option(name, number));
    });
    chooser.value = "-1";
    chooser.addEventListener("change", () => {
      chosen = Number(chooser.value);
      select(-1);
      draw();
    });
  }
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    readColours();
    draw();
  });
  if (sheet && !sheet.complete) sheet.addEventListener("load", draw);
  new ResizeObserver(resize).observe(canvas);
  readColours();
  resize();
})();
