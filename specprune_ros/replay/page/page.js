// One state, the index of the moment; everything that is drawn follows from it.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const figures = JSON.parse(document.getElementById("figures").textContent);
const byId = (id) => document.getElementById(id);
const pictures = data.moments.map(() => null);
let now = 0;

function loaded(index) {
  // Promises of the views' images, decoded once.
  if (!pictures[index]) {
    pictures[index] = Promise.all(data.moments[index].frames.map((base64) => new Promise((done) => {
      const image = new Image();
      image.onload = () => done(image);
      image.src = "data:image/jpeg;base64," + base64;
    })));
  }
  return pictures[index];
}

function bits(hex) {
  // The kept patches, row-major, one bit each, four a digit.
  return Array.from(hex, (digit) => parseInt(digit, 16)).flatMap((n) => [n & 8, n & 4, n & 2, n & 1]);
}

function draw(canvas, image, hex) {
  const side = canvas.width, pen = canvas.getContext("2d"), [rows, columns] = data.grid;
  pen.drawImage(image, 0, 0, side, side);
  if (!hex) return;
  const seen = side * data.crop, edge = (side - seen) / 2;
  pen.fillStyle = "rgba(8, 11, 44, 0.74)";
  pen.fillRect(0, 0, side, edge); pen.fillRect(0, side - edge, side, edge);
  pen.fillRect(0, edge, edge, seen); pen.fillRect(side - edge, edge, edge, seen);
  bits(hex).slice(0, rows * columns).forEach((kept, patch) => {
    if (kept) return;
    const left = Math.round(edge + (patch % columns) * seen / columns);
    const top = Math.round(edge + Math.floor(patch / columns) * seen / rows);
    const right = Math.round(edge + (patch % columns + 1) * seen / columns);
    const bottom = Math.round(edge + (Math.floor(patch / columns) + 1) * seen / rows);
    pen.fillRect(left, top, right - left, bottom - top);
  });
}

function canvases(parent, side) {
  return data.views.map((view) => {
    const figure = document.createElement("figure"), canvas = document.createElement("canvas");
    canvas.width = canvas.height = side;
    figure.append(canvas, Object.assign(document.createElement("figcaption"), {textContent: view}));
    parent.append(figure);
    return canvas;
  });
}

const large = canvases(byId("views"), 280);

function kept(moment, view) {
  const stage = byId("stage").value, arm = moment.arms[byId("arm").value];
  return stage === "none" ? "" : arm[stage][view];
}

async function show(index) {
  now = Math.max(0, Math.min(data.moments.length - 1, index));
  const moment = data.moments[now], name = byId("arm").value, arm = moment.arms[name];
  byId("slider").value = now;
  document.body.dataset.moment = now;
  const rows = [["time", moment.time.toFixed(2) + " s"], ["stamp", moment.stamp],
    ["mode", `<span class="mode" style="background:${data.colors[arm.mode]}">${arm.mode}</span>`],
    ["reason", arm.reason.replaceAll("_", " ")], ["speed", moment.speed], ["inference", arm.ms + " ms"],
    ["operations", arm.flops + " % of dense"], ["patches", arm.patches], ["from dense", arm.apart]];
  byId("said").innerHTML = "<table>" + rows.map(([key, value]) => `<tr><td>${key}</td><td>${value}</td></tr>`).join("") + "</table>";
  drawPath(moment, name);
  for (const id of data.timed) Plotly.relayout(id, {"shapes[0].x0": moment.time, "shapes[0].x1": moment.time});
  const images = await loaded(now);
  if (data.moments[now] === moment) large.forEach((canvas, view) => draw(canvas, images[view], kept(moment, view)));
}

function drawPath(moment, name) {
  if (!figures.path) return;
  const axes = [["x", "y"], ["x", "z"]], pick = {x: 0, y: 1, z: 2};
  const column = (path, axis) => path.map((point) => point[pick[axis]]);
  const x = [], y = [];
  for (const [across, up] of axes) {
    for (const arm of ["dense", name]) {
      const path = moment.arms[arm].path || [];
      x.push(column(path, across)); y.push(column(path, up));
    }
    const here = moment.position ? [moment.position] : [];
    x.push(column(here, across)); y.push(column(here, up));
  }
  Plotly.restyle("path", {x: x, y: y}, [2, 3, 4, 5, 6, 7]);
  Plotly.restyle("path", {name: name, "line.color": data.lines[name]}, [3, 6]);
}

function nearest(time) {
  let best = 0;
  data.moments.forEach((moment, index) => {
    if (Math.abs(moment.time - time) < Math.abs(data.moments[best].time - time)) best = index;
  });
  return best;
}

function gallery() {
  const parent = byId("gallery"), name = byId("arm").value;
  if (!parent) return;
  parent.replaceChildren();
  byId("gallery-arm").textContent = name;
  for (const index of data.worst[name] || []) {
    const box = document.createElement("figure"), row = document.createElement("div");
    row.style.display = "flex";
    const moment = data.moments[index];
    const small = canvases(row, 112);
    box.append(row, Object.assign(document.createElement("figcaption"),
      {textContent: `${moment.time.toFixed(2)} s, ${moment.arms[name].mode}: ${moment.arms[name].apart}`}));
    box.onclick = () => { show(index); byId("scrubber").scrollIntoView(); };
    parent.append(box);
    loaded(index).then((images) => small.forEach((canvas, view) => draw(canvas, images[view], moment.arms[name].final[view])));
  }
}

function start() {
  for (const name of Object.keys(data.moments[0].arms)) byId("arm").add(new Option(name, name));
  byId("arm").value = data.chosen;
  for (const [id, figure] of Object.entries(figures)) {
    // The small plot beside the pictures has no room for buttons.
    const bar = id === "path" ? false : "hover";
    Plotly.newPlot(id, figure.data, figure.layout, {responsive: true, displaylogo: false, displayModeBar: bar});
    if (data.timed.includes(id)) byId(id).on("plotly_click", (event) => show(nearest(event.points[0].x)));
  }
  byId("slider").max = data.moments.length - 1;
  byId("slider").oninput = (event) => show(Number(event.target.value));
  byId("back").onclick = () => show(now - 1);
  byId("on").onclick = () => show(now + 1);
  byId("arm").onchange = () => { show(now); gallery(); };
  byId("stage").onchange = () => show(now);
  document.addEventListener("keydown", (event) => {
    const step = {ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -1e9, End: 1e9}[event.key];
    if (step === undefined || event.target.tagName === "SELECT") return;
    event.preventDefault();
    show(now + step);
  });
  gallery();
  show(0).then(() => { document.body.dataset.ready = "yes"; });
}

start();
