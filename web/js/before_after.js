// A picture before and after, one over the other, with a line that is dragged: plain DOM, knows nothing of ComfyUI.

const STEP = 0.02
const BIG_STEP = 0.1
/** In pixels: what the line below the picture takes. */
export const NOTE_HEIGHT = 20

const STYLE = `
.dfosd-compare { container-type: size; position: relative; width: 100%; height: 100%; overflow: hidden;
  display: grid; place-items: center; align-content: center; border-radius: 6px; background: #1a1a1a; user-select: none;
  font: 12px/1 system-ui, sans-serif; color: #fff; }
.dfosd-compare .stage { position: relative; overflow: hidden; aspect-ratio: var(--ratio);
  width: min(100cqw, (100cqh - var(--note-height, 0px)) * var(--ratio)); cursor: ew-resize; touch-action: none; }
.dfosd-compare img { position: absolute; inset: 0; width: 100%; height: 100%; pointer-events: none; }
.dfosd-compare .before { position: absolute; inset: 0; clip-path: inset(0 calc(100% - var(--position)) 0 0); }
.dfosd-compare .tag { position: absolute; top: 8px; padding: 4px 7px; border-radius: 9px; background: #000a;
  pointer-events: none; white-space: nowrap; }
.dfosd-compare .before .tag { left: 8px; }
.dfosd-compare .stage > .tag { right: 8px; }
.dfosd-compare .line { position: absolute; top: 0; bottom: 0; left: var(--position); width: 2px; margin-left: -1px;
  background: #fff; box-shadow: 0 0 3px #0009; pointer-events: none; outline: none; }
.dfosd-compare .grip { position: absolute; top: 50%; left: 50%; width: 26px; height: 26px; margin: -13px 0 0 -13px;
  border-radius: 50%; background: #fff; color: #222; display: grid; place-items: center; box-shadow: 0 0 4px #0009; }
.dfosd-compare .line:focus-visible .grip { box-shadow: 0 0 0 3px #3b9cff; }
.dfosd-compare svg { width: 16px; height: 16px; fill: none; stroke: currentColor; stroke-width: 1.8;
  stroke-linecap: round; stroke-linejoin: round; }
.dfosd-compare .bar { position: absolute; bottom: 8px; display: flex; align-items: center; border-radius: 13px;
  background: #000a; }
.dfosd-compare .pages { left: 50%; transform: translateX(-50%); }
.dfosd-compare .whole { right: 8px; }
.dfosd-compare .note { max-width: calc(100cqw - 12px); height: var(--note-height); line-height: var(--note-height);
  font-size: 11px; color: #bbb; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; user-select: text; }
.dfosd-compare button { all: unset; width: 26px; height: 26px; display: grid; place-items: center; cursor: pointer;
  border-radius: 50%; }
.dfosd-compare button:hover, .dfosd-compare button:focus-visible { background: #fff3; }
.dfosd-compare [hidden] { display: none; }
`

const icon = (path) => `<svg viewBox="0 0 16 16" aria-hidden="true"><path d="${path}"/></svg>`
const GRIP = icon("M5.5 4.5 2 8l3.5 3.5M10.5 4.5 14 8l-3.5 3.5")
const BACK = icon("M10 3.5 5.5 8l4.5 4.5")
const ON = icon("M6 3.5 10.5 8 6 12.5")
const WHOLE = icon("M2.5 6V2.5H6M10 2.5h3.5V6M13.5 10v3.5H10M6 13.5H2.5V10")

/** A number within 0 and 1. */
export function fraction(value) {
  return Math.min(Math.max(value, 0), 1)
}

/** Where the line goes for a key, or null for a key that is not the slider's. */
export function positionAfterKey(key, position, big) {
  const step = big ? BIG_STEP : STEP
  switch (key) {
    case "ArrowLeft":
    case "ArrowDown":
      return fraction(position - step)
    case "ArrowRight":
    case "ArrowUp":
      return fraction(position + step)
    case "Home":
      return 0
    case "End":
      return 1
    default:
      return null
  }
}

/** The page `by` further on, round and round. */
export function pageAfter(page, by, count) {
  return (((page + by) % count) + count) % count
}

function make(tag, className, parent, properties = {}) {
  const element = Object.assign(document.createElement(tag), properties)
  element.className = className
  parent.append(element)
  return element
}

function addStyle() {
  if (!document.getElementById("dfosd-compare-style")) {
    make("style", "", document.head, { id: "dfosd-compare-style", textContent: STYLE })
  }
}

async function loaded(url) {
  const image = new Image()
  image.draggable = false
  image.src = url
  await image.decode()
  return image
}

/** `element` shows one of several pairs of pictures; `show` them, `clear` them. */
export class BeforeAfter {
  /** words: {before, after, previous, next, whole}, what is written and read out. */
  constructor(words) {
    addStyle()
    this.pairs = []
    this.page = 0
    this.request = 0
    this.element = make("div", "dfosd-compare", document.createDocumentFragment())
    this.stage = make("div", "stage", this.element)
    make("span", "tag", this.stage, { textContent: words.after })
    this.before = make("div", "before", this.stage)
    make("span", "tag", this.before, { textContent: words.before })
    this.line = make("div", "line", this.stage, { tabIndex: 0, role: "slider", ariaLabel: words.before })
    this.line.setAttribute("aria-valuemin", "0")
    this.line.setAttribute("aria-valuemax", "100")
    make("div", "grip", this.line, { innerHTML: GRIP })
    this.pages = make("div", "bar pages", this.stage)
    this.addButton(BACK, words.previous, this.pages, () => this.turn(-1))
    this.count = make("span", "", this.pages)
    this.addButton(ON, words.next, this.pages, () => this.turn(1))
    this.addButton(WHOLE, words.whole, make("div", "bar whole", this.stage), () => this.toggleWhole())
    this.noteLine = make("div", "note", this.element, { hidden: true })
    this.listen()
    this.moveTo(0.5)
  }

  addButton(innerHTML, title, parent, action) {
    const button = make("button", "", parent, { type: "button", innerHTML, title, ariaLabel: title })
    button.addEventListener("pointerdown", (event) => event.stopPropagation())
    button.addEventListener("click", action)
  }

  listen() {
    const follow = (event) => {
      const box = this.stage.getBoundingClientRect()
      this.moveTo((event.clientX - box.left) / box.width)
    }
    this.stage.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || !event.isPrimary) return
      this.stage.setPointerCapture(event.pointerId)
      this.line.focus({ preventScroll: true })
      follow(event)
    })
    // Or the click would go on to focus what the stage lies in, and keys with it.
    this.stage.addEventListener("mousedown", (event) => event.preventDefault())
    this.stage.addEventListener("pointermove", (event) => {
      if (this.stage.hasPointerCapture(event.pointerId)) follow(event)
    })
    this.element.addEventListener("keydown", (event) => this.onKey(event))
  }

  onKey(event) {
    if (event.key === "PageUp" || event.key === "PageDown") {
      this.turn(event.key === "PageUp" ? -1 : 1)
    } else {
      const position = positionAfterKey(event.key, this.position, event.shiftKey)
      if (position === null) return
      this.moveTo(position)
    }
    event.preventDefault()
    event.stopPropagation()
  }

  /** 0: the whole of the picture after, 1: the whole of the picture before. */
  moveTo(position) {
    this.position = fraction(position)
    this.stage.style.setProperty("--position", `${this.position * 100}%`)
    this.line.setAttribute("aria-valuenow", Math.round(this.position * 100))
  }

  /** Show pairs [{before, after}] of addresses. Rejects if the first cannot be loaded; what is shown then stays. */
  async show(pairs) {
    await this.turnTo(0, pairs)
  }

  turn(by) {
    const there = pageAfter(this.page, by, this.pairs.length)
    return this.turnTo(there, this.pairs).catch(() => undefined) // a page that is gone: stay on this one
  }

  async turnTo(page, pairs) {
    const request = ++this.request
    const [before, after] = await Promise.all([loaded(pairs[page].before), loaded(pairs[page].after)])
    if (request !== this.request) return // something newer was asked for meanwhile
    this.dropImages()
    this.pairs = pairs
    this.page = page
    this.stage.style.setProperty("--ratio", after.naturalWidth / after.naturalHeight)
    this.stage.prepend(after)
    this.before.prepend(before)
    this.pages.hidden = pairs.length < 2
    this.count.textContent = `${page + 1} / ${pairs.length}`
  }

  /** One line below the picture, cut off where the node is narrow and whole under the mouse; empty: none. */
  set note(text) {
    this.noteLine.textContent = this.noteLine.title = text
    this.noteLine.hidden = !text
    this.element.style.setProperty("--note-height", `${this.noteHeight}px`)
  }

  get noteHeight() {
    return this.noteLine.hidden ? 0 : NOTE_HEIGHT
  }

  /** Width by height of what is shown; 1 if nothing is. */
  get ratio() {
    return Number(this.stage.style.getPropertyValue("--ratio")) || 1
  }

  dropImages() {
    for (const image of this.element.querySelectorAll("img")) image.remove()
  }

  clear() {
    this.request++
    this.pairs = []
    this.dropImages()
    if (document.fullscreenElement === this.element) document.exitFullscreen()
  }

  toggleWhole() {
    if (document.fullscreenElement === this.element) document.exitFullscreen()
    else this.element.requestFullscreen?.()
  }
}
