// The before/after slider on DFOSD Upscale: takes the node's output, asks only for the host's /view.

import { api } from "../../../scripts/api.js"
import { app } from "../../../scripts/app.js"
import { after } from "./after.js"
import { BeforeAfter } from "./before_after.js"

const NODE = "DFOSDUpscale"
const OUTPUT = "dfosd_before_after"
const ORIGIN = "dfosd_origin" // what an imported LoRA was made from
const PREVIEW_WIDGET = "$$canvas-image-preview" // the host's name for the picture that it shows during a run
const STORE = "dfosd.before_after"
const MARGIN = 8
const LEAST_HEIGHT = 160
const MOST_HEIGHT = 480 // of what the node grows to by itself
const PREVIEW_HEIGHT = 240 // what the host's own preview makes the node grow by, and a little
const GOOD_WIDTH = 380 // room for the embedded LoRA's name

// Nodes 2.0 lays its nodes out as HTML, with the host's own preview of a run behind the widgets; the two take turns.
const STYLE = `
.lg-node-widget .dfosd-compare { min-height: ${LEAST_HEIGHT}px; }
.lg-node-widgets:has(.dfosd-compare.finished) ~ img, .lg-node-widgets:has(.dfosd-compare.finished) ~ img + div,
.lg-node-widgets:has(~ img) .dfosd-compare:not(.finished) { display: none; }
`

const WORDS = {
  en: { before: "Before", after: "After", previous: "Previous image", next: "Next image", whole: "Whole screen" },
  zh: { before: "放大前", after: "放大后", previous: "上一张", next: "下一张", whole: "全屏" },
}

function words() {
  const locale = app.extensionManager?.setting?.get("Comfy.Locale") ?? "en"
  return locale.startsWith("zh") ? WORDS.zh : WORDS.en
}

function viewUrl({ filename, subfolder = "", type = "temp" }) {
  return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`)
}

const rootGraph = () => app.rootGraph ?? app.graph

function allNodes() {
  const graphs = [rootGraph(), ...(rootGraph()?.subgraphs?.values() ?? [])]
  return graphs.flatMap((graph) => graph?.nodes ?? []).filter((node) => node.type === NODE)
}

/** The name by which the page keeps a node's outputs: its number, in a subgraph after the subgraph's id. */
function locator(node) {
  return node.graph === rootGraph() ? String(node.id) : `${node.graph?.id}:${node.id}`
}

/** What nodes of the open workflow show, for when the page is loaded anew: the page itself forgets it then. */
const memory = {
  read() {
    try {
      return JSON.parse(sessionStorage.getItem(STORE)) ?? {}
    } catch {
      return {}
    }
  },
  write(all) {
    try {
      sessionStorage.setItem(STORE, JSON.stringify(all))
    } catch {
      // storage is full or forbidden: then a page that is loaded anew starts without sliders
    }
  },
  put: (node, output) => memory.write({ ...memory.read(), [locator(node)]: output }),
}

/** Wheel and panning over the slider are the canvas's, as everywhere on it. */
function handOnToCanvas(element) {
  const pass = (event, Kind) => {
    if (document.fullscreenElement) return
    event.preventDefault()
    event.stopPropagation()
    app.canvas.canvas.dispatchEvent(new Kind(event.type, event))
  }
  element.addEventListener("wheel", (event) => pass(event, WheelEvent), { passive: false })
  const panning = (event) => event.buttons === 4 || (event.buttons === 1 && app.canvas.read_only)
  for (const type of ["pointerdown", "pointermove"]) {
    element.addEventListener(type, (event) => panning(event) && pass(event, PointerEvent), { capture: true })
  }
}

/** Views of nodes that are gone, by the page's name for them. */
const spare = new Map()

/** For a node that was made anew (undo) the view it had: Nodes 2.0 goes on showing that one's element. */
function viewFor(node) {
  const kept = spare.get(locator(node))
  spare.delete(locator(node))
  if (kept?.words === words()) return kept
  const view = Object.assign(new BeforeAfter(words()), { words: words() })
  handOnToCanvas(view.element)
  return view
}

/** The slider of one node: made with its first result, then kept. */
class Slider {
  constructor(node) {
    this.node = node
    this.hasRoom = false
    this.view = viewFor(node)
    this.widget = node.addDOMWidget("before_after", "dfosd_before_after", this.view.element, {
      serialize: false,
      hideOnZoom: false,
      margin: MARGIN,
      getValue: () => "",
      getMinHeight: () => (this.widget?.hidden ? 0 : LEAST_HEIGHT),
      getMaxHeight: () => (this.widget?.hidden ? 0 : undefined),
    })
    this.widget.serialize = false // no place in widgets_values
    this.widget.hidden = true
  }

  /** Whether no run is on its way. */
  get finished() {
    return this.view.element.classList.contains("finished")
  }

  set finished(value) {
    this.view.element.classList.toggle("finished", value)
  }

  /** isNew: out of a run, not remembered. */
  async show(output, isNew) {
    const pairs = output[OUTPUT].map(({ before, after }) => ({ before: viewUrl(before), after: viewUrl(after) }))
    await this.view.show(pairs)
    this.view.note = output[ORIGIN]?.[0] ?? ""
    this.widget.hidden = false
    this.dropPreview()
    if (isNew && !this.hasRoom) this.makeRoom()
    this.hasRoom = true
    this.node.setDirtyCanvas(true, true)
  }

  /** Unless it was given more room before, the node becomes as high as the picture wants. */
  makeRoom() {
    const [width, height] = this.node.size
    const others = this.node.computeSize()[1] - LEAST_HEIGHT
    if (height > others + PREVIEW_HEIGHT) return
    const wanted = (width - 2 * MARGIN) / this.view.ratio + this.view.noteHeight + 2 * MARGIN
    this.node.setSize([width, others + Math.min(Math.max(wanted, LEAST_HEIGHT), MOST_HEIGHT)])
  }

  /** The host's live preview and the slider take turns in the same place. Called before each drawing of the node. */
  yieldToPreview() {
    this.dropPreview()
    this.widget.hidden = this.view.pairs.length === 0 || Boolean(this.node.imgs?.length)
  }

  /** After a run, let the host forget the run's last preview. Nodes 2.0 keeps it too, and draws nothing on the canvas. */
  dropPreview() {
    const { node } = this
    if (!this.finished || !node.imgs) return
    node.imgs = undefined
    const preview = node.widgets.findIndex((other) => other.name === PREVIEW_WIDGET)
    if (preview >= 0) {
      node.widgets[preview].onRemove?.()
      node.widgets.splice(preview, 1)
    }
  }
}

const sliders = new WeakMap()
let pageIsNew = true

function show(node, output, isNew = false) {
  if (!output?.[OUTPUT]?.length || !node?.addDOMWidget) return
  if (!sliders.has(node)) sliders.set(node, new Slider(node))
  const slider = sliders.get(node)
  slider.finished = true
  slider.show(output, isNew).then(
    () => memory.put(node, { [OUTPUT]: output[OUTPUT], [ORIGIN]: output[ORIGIN] }),
    () => memory.put(node, undefined), // the host has emptied its temp folder since
  )
}

function showOutputs(outputs) {
  for (const node of allNodes()) show(node, outputs?.[locator(node)])
}

app.registerExtension({
  name: "DFOSD.BeforeAfter",

  setup() {
    document.head.append(Object.assign(document.createElement("style"), { textContent: STYLE }))
    api.addEventListener("execution_start", () => {
      for (const node of allNodes()) {
        const slider = sliders.get(node)
        if (slider) slider.finished = false
      }
    })
  },

  beforeRegisterNodeDef(nodeType, nodeData) {
    if (nodeData.name !== NODE) return
    after(nodeType.prototype, "onExecuted", function (output) {
      show(this, output, true)
    })
    after(nodeType.prototype, "onDrawBackground", function () {
      sliders.get(this)?.yieldToPreview()
    })
    after(nodeType.prototype, "onRemoved", function () {
      const view = sliders.get(this)?.view
      view?.clear()
      if (view) spare.set(locator(this), view)
    })
  },

  nodeCreated(node) {
    if (node.constructor.comfyClass !== NODE) return
    node.setSize([Math.max(node.size[0], GOOD_WIDTH), node.size[1]])
  },

  /** Another workflow, undo and redo: the page still knows outputs or tells them later. A new page: only we do. */
  afterConfigureGraph() {
    const remembered = memory.read()
    memory.write({})
    showOutputs(pageIsNew ? remembered : app.nodeOutputs)
    pageIsNew = false
  },

  onNodeOutputsUpdated: showOutputs,
})
