// "Size by" on DFOSD Upscale: which of the node's numbers says how large the result becomes, with only those in sight.
//
// A widget of the page alone. The numbers say it all: one that is 0 is not given, and without any the scale counts. So
// workflows and requests hold no more than the numbers, and those from before this widget mean what they meant.

import { app } from "../../../scripts/app.js"
import { after } from "./after.js"

const NODE = "DFOSDUpscale"
const NAME = "size_by"
const FIRST_SHOWN = "scale" // the widget that it stands before

// What to start with where nothing was given; `scale` and `fit` always have a value.
const GIVEN = { long_edge: 2048, short_edge: 1080, megapixels: 4, width: 1920, height: 1080 }

/** Each way's widgets, in the order in which one that is given decides. */
export const WAYS = {
  exact: ["width", "height", "fit"],
  megapixels: ["megapixels"],
  long_edge: ["long_edge"],
  short_edge: ["short_edge"],
  scale: ["scale"],
}
const ORDER = ["scale", "long_edge", "short_edge", "megapixels", "exact"] // in the list

const WORDS = {
  en: {
    [NAME]: "size by",
    help: "What the size of the result is given by. Only its inputs are shown; those of the others become 0.",
    scale: "scale",
    long_edge: "long edge",
    short_edge: "short edge",
    megapixels: "megapixels",
    exact: "width and height",
  },
  zh: {
    [NAME]: "尺寸依据",
    help: "用什么指定结果的尺寸。只显示相应的输入，其余的设为 0。",
    scale: "倍数",
    long_edge: "长边",
    short_edge: "短边",
    megapixels: "百万像素",
    exact: "宽度和高度",
  },
}

function words() {
  const locale = app.extensionManager?.setting?.get("Comfy.Locale") ?? "en"
  return locale.startsWith("zh") ? WORDS.zh : WORDS.en
}

/** The way that numbers mean. isGiven: whether an input of that name has a value or a link. */
export function wayOf(isGiven) {
  return Object.keys(WAYS).find((way) => WAYS[way].some((name) => name in GIVEN && isGiven(name))) ?? "scale"
}

/** Names of the widgets to hide: another way's, unless they are given, which would else be done unseen. */
export function hiddenFor(way, isGiven) {
  const others = Object.keys(WAYS).filter((other) => other !== way)
  return others.flatMap((other) => WAYS[other]).filter((name) => !(name in GIVEN && isGiven(name)))
}

// Front ends of 2025 leave a hidden widget its place; one of this height takes none, with the 4 pixels between widgets.
const noPlace = () => [0, -4]

class SizeBy {
  constructor(node) {
    this.node = node
    this.kept = {} // the user's numbers of ways that were left
    this.words = words()
    const values = ORDER.map((way) => this.words[way])
    this.widget = node.addWidget("combo", NAME, this.words.scale, (label) => this.choose(label), {
      values,
      serialize: false, // no input of the node
    })
    this.widget.label = this.words[NAME]
    this.widget.tooltip = this.words.help
    this.widget.serialize = false // no place in widgets_values
    const last = node.widgets.pop()
    node.widgets.splice(this.place, 0, last)
    for (const name of Object.keys(GIVEN)) after(this.named(name), "callback", () => this.update())
    this.resizing(() => this.update())
  }

  get place() {
    return this.node.widgets.findIndex((widget) => widget.name === FIRST_SHOWN)
  }

  named(name) {
    return this.node.widgets.find((widget) => widget.name === name)
  }

  isLinked(name) {
    const slot = this.node.inputs?.findIndex((input) => input.widget?.name === name) ?? -1
    return slot >= 0 && this.node.isInputConnected(slot)
  }

  isGiven = (name) => this.isLinked(name) || Number(this.named(name)?.value) > 0

  /** The widgets as the numbers want them. */
  update() {
    const way = wayOf(this.isGiven)
    const hidden = new Set(hiddenFor(way, this.isGiven))
    this.widget.value = this.words[way]
    for (const name of Object.values(WAYS).flat()) {
      const widget = this.named(name)
      if (!widget) continue
      const isHidden = hidden.has(name) && !this.isLinked(name)
      widget.hidden = isHidden
      if (widget.options) widget.options.hidden = isHidden // Nodes 2.0 looks there
      if (isHidden) widget.computeSize = noPlace
      else if (widget.computeSize === noPlace) delete widget.computeSize
    }
    this.node.setDirtyCanvas(true, true)
  }

  /** The user has chosen: numbers of other ways become 0, and come back when their way does. */
  choose(label) {
    const way = ORDER.find((name) => this.words[name] === label)
    for (const name of Object.keys(GIVEN)) {
      if (this.isLinked(name)) continue
      const widget = this.named(name)
      if (!WAYS[way].includes(name)) {
        if (widget.value > 0) this.kept[name] = widget.value
        widget.value = 0
      } else if (!(widget.value > 0)) {
        widget.value = this.kept[name] ?? GIVEN[name]
      }
    }
    this.resizing(() => this.update())
  }

  /** `change` with the node growing or shrinking by what its widgets do. */
  resizing(change) {
    const before = this.node.computeSize()[1]
    change()
    const [width, height] = this.node.size
    this.node.setSize([width, Math.max(height + this.node.computeSize()[1] - before, this.node.computeSize()[1])])
  }

  /** After the node was filled from a workflow: no lower than what it shows. */
  restored() {
    this.update()
    const [width, height] = this.node.size
    const least = this.node.computeSize()[1]
    if (height < least) this.node.setSize([width, least])
  }
}

const made = new WeakMap()

app.registerExtension({
  name: "DFOSD.SizeBy",

  beforeRegisterNodeDef(nodeType, nodeData) {
    if (nodeData.name !== NODE) return
    after(nodeType.prototype, "onConfigure", function () {
      made.get(this)?.restored()
    })
    after(nodeType.prototype, "onConnectionsChange", function () {
      made.get(this)?.update()
    })
    // For a widget not saved, front end 1.49 leaves an empty place and 1.58 none; neither skips it when it reads.
    after(nodeType.prototype, "onSerialize", function (saved) {
      if (!made.has(this) || !Array.isArray(saved.widgets_values)) return
      saved.widgets_values = this.widgets.filter((widget) => widget.serialize !== false).map((widget) => widget.value)
    })
  },

  nodeCreated(node) {
    if (node.constructor.comfyClass === NODE) made.set(node, new SizeBy(node))
  },
})
