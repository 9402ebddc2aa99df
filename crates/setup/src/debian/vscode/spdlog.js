"use strict";
// Stands in for a module that would have to be compiled: VS Code's own log
// files, written with what Node has. The oldest lines go when a file is full.

const fs = require("fs");
const path = require("path");

const NAMES = ["trace", "debug", "info", "warning", "error", "critical"];
const OFF = 6;

class Logger {
  constructor(file, size) {
    this.file = file;
    this.size = size;
    this.level = 2;
    this.bare = false;
  }
  write(level, message) {
    if (level < this.level || this.level === OFF) return;
    const mark = this.bare ? "" : `${new Date().toISOString()} [${NAMES[level]}] `;
    try {
      if (fs.statSync(this.file, { throwIfNoEntry: false })?.size > this.size) {
        fs.renameSync(this.file, `${this.file}.1`);
      }
      fs.appendFileSync(this.file, `${mark}${message}\n`);
    } catch {
      // A full disk must not end VS Code.
    }
  }
  getLevel() {
    return this.level;
  }
  setLevel(level) {
    this.level = level;
  }
  clearFormatters() {
    this.bare = true;
  }
  setPattern() {}
  flush() {}
  drop() {}
}
NAMES.forEach((name, level) => {
  Logger.prototype[name === "warning" ? "warn" : name] = function (message) {
    this.write(level, message);
  };
});

async function create(_name, file, size) {
  await fs.promises.mkdir(path.dirname(file), { recursive: true });
  return new Logger(file, size);
}

exports.version = 0;
exports.Logger = Logger;
exports.setLevel = () => {};
exports.setFlushOn = () => {};
exports.createRotatingLogger = create;
exports.createAsyncRotatingLogger = create;
