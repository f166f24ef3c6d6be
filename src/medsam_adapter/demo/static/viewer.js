// One slice viewer: shows the picture that the server composed, and says where it was clicked, dragged or scrolled.
// Coordinates are pixels of the slice (columns x rows), whose centres are whole numbers.
window.msaViewer = function ({ element, read, watch, send }) {
  const stage = element.querySelector(".msa-stage");
  const picture = element.querySelector(".msa-picture");
  const band = element.querySelector(".msa-band");
  const caption = element.querySelector(".msa-caption");
  let shown = null;
  let from = null;
  let scrolled = 0;

  function draw() {
    let content = read();
    content = typeof content === "string" && content ? JSON.parse(content) : content;
    stage.classList.remove("msa-busy");
    if (!content || !content.src) {
      shown = null;
      picture.removeAttribute("src");
      stage.classList.add("msa-empty");
      return;
    }
    shown = content;
    stage.classList.remove("msa-empty");
    picture.src = content.src;
    picture.style.aspectRatio = content.width + " / " + content.height;
    picture.style.width = `min(100%, calc(var(--msa-height) * ${content.width / content.height}))`;
    for (const side of ["left", "right", "top", "bottom"]) {
      element.querySelector(".msa-edge-" + side).textContent = (content.edges || {})[side] || "";
    }
    caption.textContent = content.caption || "";
  }

  function at(event) {
    const frame = picture.getBoundingClientRect();
    const x = ((event.clientX - frame.left) / frame.width) * shown.columns - 0.5;
    const y = ((event.clientY - frame.top) / frame.height) * shown.rows - 0.5;
    return {
      x: Math.min(shown.columns - 1, Math.max(0, Math.round(x))),
      y: Math.min(shown.rows - 1, Math.max(0, Math.round(y))),
    };
  }

  function place(event) {
    const frame = stage.getBoundingClientRect();
    const [x0, x1] = [from.clientX, event.clientX].sort((a, b) => a - b);
    const [y0, y1] = [from.clientY, event.clientY].sort((a, b) => a - b);
    band.style.cssText =
      `display:block;left:${x0 - frame.left}px;top:${y0 - frame.top}px;width:${x1 - x0}px;height:${y1 - y0}px`;
  }

  function isDrag(event) {
    return from && Math.hypot(event.clientX - from.clientX, event.clientY - from.clientY) > 6;
  }

  picture.addEventListener("dragstart", (event) => event.preventDefault());
  picture.addEventListener("contextmenu", (event) => event.preventDefault());
  picture.addEventListener("pointerdown", (event) => {
    if (!shown || event.button === 1) return;
    from = event;
    picture.setPointerCapture(event.pointerId);
    stage.focus({ preventScroll: true });
    event.preventDefault();
  });
  picture.addEventListener("pointermove", (event) => {
    if (isDrag(event)) place(event);
  });
  picture.addEventListener("pointerup", (event) => {
    if (!from || !shown) return;
    const start = at(from);
    const end = at(event);
    const isBox = isDrag(event) && start.x !== end.x && start.y !== end.y;
    const isBackground = from.button === 2 || from.shiftKey;
    from = null;
    band.style.display = "none";
    stage.classList.add("msa-busy");
    if (isBox) send.box({ x0: start.x, y0: start.y, x1: end.x, y1: end.y });
    else send.place({ x: end.x, y: end.y, background: isBackground });
  });
  picture.addEventListener("pointercancel", () => {
    from = null;
    band.style.display = "none";
  });
  stage.addEventListener(
    "wheel",
    (event) => {
      if (!shown || shown.slices < 2 || event.ctrlKey) return;
      event.preventDefault();
      const now = Date.now();
      if (now - scrolled < 90) return; // one slice for each notch, however finely the wheel speaks
      scrolled = now;
      send.scroll({ by: event.deltaY > 0 ? -1 : 1 });
    },
    { passive: false },
  );
  watch("value", draw);
  draw();
};

// Keys work anywhere on the page but in a field that takes text. They press the page's own buttons.
if (!window.msaKeys) {
  window.msaKeys = true;
  const buttons = { z: "msa-undo", y: "msa-redo" };
  document.addEventListener("keydown", (event) => {
    const field = event.target.closest && event.target.closest("textarea, select, [contenteditable], input");
    if (field && !["radio", "checkbox", "range", "button"].includes(field.type)) return;
    const key = event.key.toLowerCase();
    let id = null;
    if (event.ctrlKey || event.metaKey) id = key === "z" && event.shiftKey ? "msa-redo" : buttons[key];
    else if (!event.altKey && key === "b") id = "msa-switch";
    else if (!event.altKey && key === "v") id = "msa-carry";
    else if (key === "escape") id = "msa-stop";
    const target = id && document.getElementById(id);
    if (!target) return;
    event.preventDefault();
    if (id === "msa-switch") {
      const other = [...target.querySelectorAll("input[type=radio]")].find((each) => !each.checked);
      if (other) other.click();
    } else {
      (target.matches("button") ? target : target.querySelector("button"))?.click();
    }
  });
}
