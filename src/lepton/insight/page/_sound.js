// A line that runs through the drawing of a sound while it plays; a click into the drawing plays from there; one sound
// at a time. Without this script the players work as the browser has them.
"use strict";
(() => {
  const players = [];
  for (const figure of document.querySelectorAll("figure.sound")) {
    const audio = figure.querySelector("audio");
    const svg = figure.querySelector("svg");
    const [left, right, end] = ["left", "right", "end"].map((name) => Number(svg.dataset[name]));
    const head = document.createElementNS("http://www.w3.org/2000/svg", "line");
    head.setAttribute("class", "head");
    head.setAttribute("y1", 0);
    head.setAttribute("y2", svg.viewBox.baseVal.height);
    const hint = document.createElementNS("http://www.w3.org/2000/svg", "title");
    hint.textContent = "A click plays from here.";
    svg.prepend(hint);
    const place = () => {
      const x = left + (Math.min(audio.currentTime, end) / end) * (right - left);
      for (const name of ["x1", "x2"]) head.setAttribute(name, x.toFixed(1));
      if (!head.isConnected && audio.currentTime > 0) svg.append(head);
    };
    const run = () => {
      place();
      if (!audio.paused) requestAnimationFrame(run);
    };
    audio.addEventListener("play", () => {
      for (const other of players) if (other !== audio) other.pause();
      run();
    });
    audio.addEventListener("seeked", place);
    svg.addEventListener("click", (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
      const seconds = ((x - left) / (right - left)) * end;
      if (seconds < 0 || seconds >= audio.duration) return;
      audio.currentTime = seconds;
      audio.play();
    });
    players.push(audio);
  }
})();
