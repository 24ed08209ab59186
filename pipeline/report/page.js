"use strict";
// What charts say of their marks, and the map of the features; all else works without.
(() => {
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.setAttribute("role", "status");
  document.body.append(tip);
  let told = null;

  function tell(mark) {
    told?.classList.remove("is-told");
    told = mark;
    tip.textContent = mark ? mark.getAttribute("aria-label") : "";
    if (!mark) return;
    mark.classList.add("is-told");
    const at = mark.getBoundingClientRect();
    const own = tip.getBoundingClientRect();
    const left = at.left + at.width / 2 - own.width / 2;
    const above = at.top - own.height - 8;
    tip.style.left = `${Math.max(4, Math.min(left, document.documentElement.clientWidth - own.width - 4))}px`;
    tip.style.top = `${above > 4 ? above : at.bottom + 8}px`;
  }

  function explainMarks(chart) {
    const marks = [...chart.querySelectorAll(".role-mark [aria-label]")];
    // A point lies on its bar and says the same.
    const single = [...new Map(marks.map((mark) => [mark.getAttribute("aria-label"), mark])).values()];
    let place = -1;
    function point(event) {
      let nearest = null;
      let least = 24 ** 2;
      for (const mark of single) {
        const at = mark.getBoundingClientRect();
        const across = Math.max(at.left - event.clientX, 0, event.clientX - at.right);
        const down = Math.max(at.top - event.clientY, 0, event.clientY - at.bottom);
        const distance = across ** 2 + down ** 2;
        if (distance < least) [nearest, least] = [mark, distance];
      }
      place = single.indexOf(nearest);
      tell(nearest);
    }
    chart.addEventListener("pointermove", point);
    chart.addEventListener("pointerdown", point);
    function leave() {
      place = -1;
      tell(null);
    }
    chart.addEventListener("pointerleave", leave);
    chart.addEventListener("blur", leave);
    chart.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") leave();
      if (!step || !single.length) return;
      event.preventDefault();
      place = place < 0 ? (step > 0 ? 0 : single.length - 1) : (place + step + single.length) % single.length;
      tell(single[place]);
    });
  }

  function showMap(card) {
    const data = JSON.parse(document.getElementById(card.dataset.points).textContent);
    const canvas = card.querySelector(".points");
    const [chips, picture, caption] = [".chips", ".shown canvas", ".shown p"].map((one) => card.querySelector(one));
    const sheets = new Map();
    const n = data.x.length;
    caption.textContent = "Hover a point to see its image.";
    let only = -1;
    let onlyWrong = false;
    const isRinged = data.is_wrong.reduce((sum, one) => sum + one, 0) < Math.min(0.1 * n, 150);
    let chosen = -1;
    let colours = [];

    function findColours() {
      const style = getComputedStyle(card);
      const read = (name) => style.getPropertyValue(name).trim();
      const light = matchMedia("screen and (prefers-color-scheme: dark)").matches ? 72 : 42;
      colours = data.classes.map((_, i) =>
        i < 8 ? read(`--series-${i + 1}`) : `hsl(${(i * 137.5) % 360} 55% ${light}%)`);
      chips.querySelectorAll("i").forEach((dot, i) => { dot.style.background = colours[i]; });
      return [read("--ink"), read("--muted")];
    }

    const margin = 14;
    const left = (i) => margin + data.x[i] * (canvas.clientWidth - 2 * margin - 10);
    const top = (i) => margin + data.y[i] * (canvas.clientHeight - 2 * margin - 10);
    const isShown = (i) => (only < 0 || data.label[i] === only) && (!onlyWrong || data.is_wrong[i]);

    function draw() {
      const [ink, muted] = findColours();
      const scale = window.devicePixelRatio || 1;
      canvas.width = canvas.clientWidth * scale;
      canvas.height = canvas.clientHeight * scale;
      const pen = canvas.getContext("2d");
      pen.scale(scale, scale);
      const radius = n > 3000 ? 2 : n > 800 ? 3 : 4;
      function dot(i, alpha) {
        pen.globalAlpha = alpha;
        pen.fillStyle = colours[data.label[i]];
        pen.beginPath();
        pen.arc(left(i), top(i), radius, 0, 7);
        pen.fill();
        if (isRinged && data.is_wrong[i] && alpha > 0.5) {
          pen.globalAlpha = 1;
          pen.strokeStyle = ink;
          pen.lineWidth = 1.5;
          pen.beginPath();
          pen.arc(left(i), top(i), radius + 2, 0, 7);
          pen.stroke();
        }
      }
      for (let i = 0; i < n; i += 1) if (!isShown(i)) dot(i, 0.08);
      for (let i = 0; i < n; i += 1) if (isShown(i)) dot(i, 0.72);
      pen.globalAlpha = 1;
      pen.fillStyle = muted;
      pen.font = "11px system-ui, sans-serif";
      pen.fillText(`${data.axes[0]} →`, margin, canvas.clientHeight - 6);
      pen.save();
      pen.translate(canvas.clientWidth - 12, margin);
      pen.rotate(Math.PI / 2);
      pen.fillText(`← ${data.axes[1]}`, 0, 0);
      pen.restore();
      if (chosen >= 0) {
        pen.strokeStyle = ink;
        pen.lineWidth = 2.5;
        pen.beginPath();
        pen.arc(left(chosen), top(chosen), radius + 5, 0, 7);
        pen.stroke();
      }
    }

    function paste(i) {
      const each = data.across ** 2;
      const number = Math.floor(i / each);
      if (!sheets.has(number)) {
        const sheet = new Image();
        sheet.src = data.sheets[number];
        sheets.set(number, sheet);
      }
      const sheet = sheets.get(number);
      const place = i % each;
      const paint = () => {
        if (i !== chosen) return;
        picture.getContext("2d").drawImage(
          sheet, (place % data.across) * data.side, Math.floor(place / data.across) * data.side,
          data.side, data.side, 0, 0, picture.width, picture.height);
        card.dataset.shown = data.path[i];
      };
      sheet.decode().then(paint, () => {});
    }

    function choose(i) {
      if (i === chosen || i < 0) return;
      chosen = i;
      const predicted = data.predicted[i] ? `\npredicted: ${data.predicted[i]}${data.is_wrong[i] ? " (wrong)" : ""}` : "";
      caption.textContent = `${data.path[i]}\nlabel: ${data.text[i] || "none"}${predicted}`;
      paste(i);
      draw();
    }

    function filter(number) {
      only = only === number ? -1 : number;
      buttons.forEach((chip, i) => chip.setAttribute("aria-pressed", String(i === only)));
      draw();
    }

    function findNearest(x, y, reach, accepts = () => true) {
      let nearest = -1;
      let least = reach ** 2;
      for (let i = 0; i < n; i += 1) {
        const distance = (left(i) - x) ** 2 + (top(i) - y) ** 2;
        if (distance < least && isShown(i) && accepts(left(i) - x, top(i) - y)) [nearest, least] = [i, distance];
      }
      return nearest;
    }

    const inside = {
      ArrowRight: (x, y) => x > Math.abs(y), ArrowLeft: (x, y) => -x > Math.abs(y),
      ArrowDown: (x, y) => y > Math.abs(x), ArrowUp: (x, y) => -y > Math.abs(x),
    };
    canvas.addEventListener("pointermove", (event) => choose(findNearest(event.offsetX, event.offsetY, 16)));
    canvas.addEventListener("click", (event) => {
      const i = findNearest(event.offsetX, event.offsetY, 16);
      choose(i);
      if (i >= 0 || only >= 0) filter(i < 0 ? only : data.label[i]);
    });
    canvas.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && chosen >= 0) filter(data.label[chosen]);
      if (event.key === "Escape" && only >= 0) filter(only);
      if (!(event.key in inside)) return;
      event.preventDefault();
      const middle = [canvas.clientWidth / 2, canvas.clientHeight / 2];
      const start = chosen < 0 || !isShown(chosen);
      choose(start ? findNearest(...middle, 1e6) : findNearest(left(chosen), top(chosen), 1e6, inside[event.key]));
    });
    function addChip(call, ...content) {
      const chip = document.createElement("button");
      chip.type = "button";
      chip.setAttribute("aria-pressed", "false");
      chip.append(...content);
      chip.addEventListener("click", () => call(chip));
      chips.append(chip);
      return chip;
    }
    const buttons = data.classes.map((name, i) => addChip(() => filter(i), document.createElement("i"), name));
    if (data.is_wrong.includes(1)) {
      addChip((chip) => {
        onlyWrong = !onlyWrong;
        chip.setAttribute("aria-pressed", String(onlyWrong));
        draw();
      }, "mistakes only");
    }
    new ResizeObserver(draw).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    matchMedia("print").addEventListener("change", draw);
  }

  document.querySelectorAll(".chart").forEach(explainMarks);
  document.querySelectorAll(".map").forEach(showMap);
})();
