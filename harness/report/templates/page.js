// Draws the page's figures from the embedded data, follows the selects, the colour scheme, the width and the printer.
"use strict";
(() => {
  const page = JSON.parse(document.getElementById("page-data").textContent);
  const root = document.documentElement;
  const narrow = matchMedia("(max-width: 600px)");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const SMALL = 520; // CSS pixels of a plot that has no room beside or inside its cells
  const PAPER_WIDTH = 660; // CSS pixels that fit between the margins of A4 and Letter
  const FALLBACK_LINES = 400; // settings that parallel coordinates without WebGL still show

  function colour(name) {
    return getComputedStyle(root).getPropertyValue(name).trim();
  }

  // One template for all figures, so that colours follow the page's and no trace repeats them.
  function template() {
    const [card, text, quiet, line, grid] = ["--card", "--text", "--quiet", "--line", "--grid"].map(colour);
    const axis = {
      gridcolor: grid, zerolinecolor: grid, linecolor: line, tickcolor: line, automargin: true,
      title: { standoff: 12, font: { color: quiet } }, tickfont: { color: quiet }, zeroline: false,
    };
    return {
      layout: {
        font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: text },
        paper_bgcolor: card, plot_bgcolor: card, xaxis: axis, yaxis: axis,
        hoverlabel: { bgcolor: card, bordercolor: line, font: { color: text }, align: "left" },
        legend: { orientation: "h", xref: "container", x: 0, xanchor: "left", y: 0, yanchor: "bottom", yref: "container" },
        margin: { l: 48, r: 12, t: 12, b: 48 }, modebar: { bgcolor: "rgba(0,0,0,0)", color: quiet, activecolor: text },
      },
      data: {
        scatter: [{ line: { width: 2 }, marker: { size: 7 } }],
        heatmap: [{ colorbar: { thickness: 12, outlinewidth: 0, len: 1 } }],
        parcoords: [{
          line: { colorscale: [[0, colour("--weak")], [1, colour("--strong")]] },
          unselected: { line: { color: grid, opacity: 0.4 } },
        }],
      },
    };
  }

  let webgl = null;
  function hasWebgl() {
    if (webgl === null) {
      const context = document.createElement("canvas").getContext("webgl");
      webgl = Boolean(context);
      if (context) (context.getExtension("WEBGL_lose_context") || { loseContext() {} }).loseContext();
    }
    return webgl;
  }

  // Annotations are read as HTML, the tick texts of parallel coordinates are not.
  function safe(text) {
    return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  }

  // Parallel coordinates as plain lines, for browsers without WebGL: the best settings, in five shades.
  function plainLines(trace) {
    const dimensions = trace.dimensions;
    const last = dimensions[dimensions.length - 1].values;
    const order = last.map((_, i) => i).sort((a, b) => last[b] - last[a]).slice(0, FALLBACK_LINES);
    const spans = dimensions.map((d) => d.range || [Math.min(...last), Math.max(...last)]);
    const height = (d, i) => (dimensions[d].values[i] - spans[d][0]) / (spans[d][1] - spans[d][0] || 1);
    const shades = ["#2f78d6", "#6270c4", "#9668b0", "#bc706c", "#e27828"];
    const size = Math.ceil(order.length / shades.length);
    const data = shades.map((shade, s) => {
      const x = [], y = [];
      for (const i of order.slice((4 - s) * size, (5 - s) * size)) {
        dimensions.forEach((_, d) => { x.push(d); y.push(height(d, i)); });
        x.push(null); y.push(null);
      }
      return { type: "scatter", mode: "lines", x, y, line: { color: shade, width: 1 }, hoverinfo: "skip", showlegend: false };
    });
    const ticks = dimensions.flatMap((d, at) => {
      const values = d.tickvals || spans[at], names = d.ticktext || spans[at].map((v) => v.toFixed(1));
      return values.map((v, i) => ({
        x: at, y: (v - spans[at][0]) / (spans[at][1] - spans[at][0] || 1), text: safe(names[i]), showarrow: false, xanchor: "left", xshift: 4,
      }));
    });
    return { data, layout: {
      annotations: ticks, yaxis: { visible: false },
      xaxis: { tickvals: dimensions.map((_, d) => d), ticktext: dimensions.map((d) => d.label), side: "top" },
    } };
  }

  function fitted(view, width, element) {
    let data = published(element) ? view.data : view.data.filter((trace) => !(trace.meta || {}).published);
    const layout = { ...view.layout, width, template: template() };
    if (data.some((trace) => trace.type === "parcoords") && !hasWebgl()) {
      const lines = plainLines(data[0]);
      data = lines.data;
      Object.assign(layout, lines.layout);
    }
    const small = width < SMALL;
    if (small) {
      data = data.map((trace) => (trace.type !== "heatmap" ? trace : {
        ...trace, texttemplate: undefined,
        colorbar: { ...trace.colorbar, orientation: "h", y: 1, yanchor: "bottom", title: { text: ((trace.colorbar || {}).title || {}).text, side: "top" } },
      }));
      if (data.some((trace) => trace.type === "heatmap")) layout.margin = { t: 90, l: 44, r: 8 };
    }
    if (small) wrapTitles(layout);
    const named = data.filter((trace) => trace.name && trace.showlegend !== false);
    const longest = Math.max(0, ...named.map((trace) => trace.name.length));
    const perRow = Math.max(1, Math.floor((width - 20) / (longest * 7 + 50)));
    const rows = named.length > 1 ? Math.ceil(named.length / perRow) : 0;
    layout.height = (layout.height || 380) + 20 * rows;
    if (rows) layout.margin = { ...layout.margin, b: 64 + 20 * rows };
    layout.showlegend = rows > 0;
    return { data, layout };
  }

  // Published numbers are shown beside the measured ones unless their study's switch is off.
  function published(element) {
    return !element.closest("section").querySelector("input[data-published]:not(:checked)");
  }

  // An axis title that is too long for a phone breaks before its unit.
  function wrapTitles(layout) {
    const title = (layout.xaxis || {}).title;
    if (title && title.text.length > 26) {
      layout.xaxis = { ...layout.xaxis, title: { ...title, text: title.text.replace(" (", "<br>(") } };
    }
  }

  function choose(figure, element) {
    const values = figure.choices.map((name) => {
      const select = element.querySelector(`select[data-choice="${name}"]`);
      return select ? select.value : null; // null: the only value there is
    });
    const agrees = (value, i) => value === null || values[i] === null || values[i] === value;
    const found = figure.views.find((view) => view.choice.every(agrees));
    if (found) return { view: found };
    // the first choices, such as the data, weigh most
    const agreement = (view) => view.choice.reduce((sum, value, i) => sum + (agrees(value, i) ? 2 ** -i : 0), 0);
    const nearest = figure.views.reduce((best, view) => (agreement(view) > agreement(best) ? view : best));
    const parts = figure.choices.map((name, i) => (nearest.choice[i] === null ? "" : `${name} ${nearest.choice[i]}`));
    const other = parts.filter(Boolean).join(", ");
    return { why: `No rows for this choice; the nearest with rows is ${other}.` };
  }

  function draw(name) {
    const figure = page.figures[name];
    const element = document.getElementById(`figure-${name}`);
    const [box, canvas, absent] = [".box", ".canvas", "p.absent"].map((part) => element.querySelector(part));
    const { view, why } = choose(figure, element);
    absent.textContent = why || "";
    absent.hidden = Boolean(view);
    box.hidden = !view;
    figure.choices.forEach((name, i) => { // a control that does not matter to this view is off
      const select = element.querySelector(`select[data-choice="${name}"]`);
      if (select) select.disabled = Boolean(view) && view.choice[i] === null;
    });
    if (!view) return Promise.resolve();
    const least = (view.layout.meta || {}).min_width || 0;
    const width = root.classList.contains("printing") ? PAPER_WIDTH : Math.max(least, box.clientWidth);
    const { data, layout } = fitted(view, width, element);
    if (element.dataset.small !== String(width < SMALL)) Plotly.purge(canvas); // a colour bar cannot turn in place
    element.dataset.small = String(width < SMALL);
    return Plotly.react(canvas, data, layout, {
      displaylogo: false,
      plotlyServerURL: "", // and no button that shares the chart: nothing leaves the page
      modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
      displayModeBar: !narrow.matches && !root.classList.contains("printing"),
    });
  }

  // What needs WebGL comes last: without a graphics card it takes seconds, and words can be read meanwhile.
  async function drawAll() {
    const slow = (name) => page.figures[name].views[0].data.some((trace) => trace.type === "parcoords");
    const names = Object.keys(page.figures).sort((a, b) => slow(a) - slow(b));
    if (root.classList.contains("printing")) return void names.forEach(draw); // the printer does not wait
    for (const name of names) {
      await draw(name);
      await new Promise((later) => setTimeout(later));
    }
  }

  // A choice holds for all figures of its study.
  function follow(event) {
    if (event.target.matches("input[data-published]")) {
      for (const figure of event.target.closest("section").querySelectorAll('figure[data-beside="published"]')) draw(figure.id.slice("figure-".length));
      return;
    }
    const select = event.target.closest("select[data-choice]");
    if (!select) return;
    const study = select.closest("section");
    for (const other of study.querySelectorAll("select[data-choice]")) {
      const same = other.dataset.choice === select.dataset.choice;
      if (same && [...other.options].some((option) => option.value === select.value)) other.value = select.value;
    }
    for (const name of Object.keys(page.figures)) {
      if (study.contains(document.getElementById(`figure-${name}`))) draw(name);
    }
  }

  let waiting = 0;
  let drawnAt = 0;
  function resized() {
    if (root.clientWidth === drawnAt) return; // phones resize when their address bar hides
    drawnAt = root.clientWidth;
    clearTimeout(waiting);
    waiting = setTimeout(drawAll, 120);
  }

  document.addEventListener("change", follow);
  dark.addEventListener("change", drawAll);
  addEventListener("resize", resized);
  addEventListener("beforeprint", () => {
    root.classList.add("printing");
    for (const folded of document.querySelectorAll("details:not(.failure):not([open])")) {
      folded.open = true;
      folded.dataset.unfolded = "";
    }
    drawAll();
  });
  addEventListener("afterprint", () => {
    root.classList.remove("printing");
    for (const unfolded of document.querySelectorAll("details[data-unfolded]")) {
      unfolded.open = false;
      delete unfolded.dataset.unfolded;
    }
    drawAll();
  });
  drawnAt = root.clientWidth;
  drawAll().then(() => { root.dataset.drawn = "yes"; });
})();
