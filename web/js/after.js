/** Let `action` run after each call of the object's method `name`, with the same arguments. */
export function after(object, name, action) {
  const original = object[name]
  object[name] = function (...args) {
    const result = original?.apply(this, args)
    action.apply(this, args)
    return result
  }
}
