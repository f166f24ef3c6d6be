// The 3-D view: NiiVue with a scan and its label map, both inside the component's value.
window.msaVolume = async function ({ element, read, watch }) {
  const canvas = element.querySelector("canvas");
  let viewer = null;
  let queue = Promise.resolve();

  function bytes(base64) {
    const text = atob(base64);
    const out = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) out[i] = text.charCodeAt(i);
    return out.buffer;
  }

  async function show() {
    const value = read();
    const content = typeof value === "string" ? JSON.parse(value || "{}") : value;
    if (!content || !content.scan || !window.niivue) return;
    if (!viewer) {
      viewer = new window.niivue.Niivue({
        backColor: [0, 0, 0, 1], show3Dcrosshair: true, isColorbar: false, dragAndDropEnabled: false,
        multiplanarForceRender: true, multiplanarLayout: 2, isRadiologicalConvention: true, isResizeCanvas: true,
        multiplanarPadPixels: 4, crosshairWidth: 0.5, crosshairColor: [1, 0.82, 0.4, 0.6], meshXRay: 0.6, meshThicknessOn2D: 0, logLevel: "error",
      });
      await viewer.attachToCanvas(canvas);
      viewer.setSliceType(viewer.sliceTypeMultiplanar);
      window.msaNiivue = viewer; // for a look from the browser's console, and for tests
    }
    for (const old of [...viewer.volumes]) viewer.removeVolume(old);
    for (const old of [...viewer.meshes]) viewer.removeMesh(old);
    const scan = await window.niivue.NVImage.loadFromBase64({ base64: content.scan, name: "scan.nii.gz" });
    viewer.addVolume(scan);
    if (content.labels) {
      const labels = await window.niivue.NVImage.loadFromBase64({
        base64: content.labels, name: "labels.nii.gz", opacity: 0.8,
      });
      const colour = (axis) => [0, ...content.colours.map((rgb) => rgb[axis])];
      labels.setColormapLabel({
        R: colour(0), G: colour(1), B: colour(2), A: [0, ...content.colours.map(() => 255)],
        I: [0, ...content.colours.map((_, i) => i + 1)], labels: ["", ...content.names],
      });
      viewer.addVolume(labels);
    }
    for (const surface of content.surfaces) {
      viewer.addMesh(
        new window.niivue.NVMesh(
          new Float32Array(bytes(surface.vertices)), new Uint32Array(bytes(surface.triangles)), surface.name,
          new Uint8Array([...surface.colour, 255]), 1, true, viewer.gl,
        ),
      );
    }
    viewer.updateGLVolume();
    element.dataset.shown = String(viewer.volumes.length);
  }

  const next = () => (queue = queue.then(show).catch((error) => console.error("3-D view:", error)));
  watch("value", next);
  next();
};
