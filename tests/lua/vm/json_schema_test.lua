--- qhost.json_schema against the JSON-Schema-Test-Suite: each schema is either checked as the suite says, or refused
--- for a reason that is listed here.
local FILES = { "additionalProperties", "allOf", "anchor", "anyOf", "boolean_schema", "const", "contains", "default", "defs",
  "dependentRequired", "dependentSchemas", "dynamicRef", "enum", "exclusiveMaximum", "exclusiveMinimum", "if-then-else",
  "infinite-loop-detection", "items", "maxContains", "maxItems", "maxLength", "maxProperties", "maximum", "minContains",
  "minItems", "minLength", "minProperties", "minimum", "multipleOf", "not", "oneOf", "pattern", "patternProperties", "prefixItems", "properties",
  "propertyNames", "ref", "refRemote", "required", "type", "unevaluatedItems", "unevaluatedProperties", "uniqueItems" }
local REASONS = { "leads out of the schema", "only the root may have one", "this keyword is not supported", "names nothing", "unknown property after" }

return function(t)
  local s, compile = t.library "qhost.schema", t.library("qhost.json_schema").compile
  local json = t.library("qhost.core").json

  if t.data and t.read(t.data .. "/json-schema/LICENSE") then
    t.test("the suite of 2020-12", function()
      local n_schemas, n_checked, refused = 0, 0, {}
      for _, name in ipairs(FILES) do
        local groups = json.decode(t.check(t.read(("%s/json-schema/draft2020-12/%s.json"):format(t.data, name)), name))
        for _, group in ipairs(groups) do
          n_schemas = n_schemas + 1
          local compiled, message = compile(group.schema)
          for _, case in ipairs(compiled and group.tests or {}) do
            local _, e = s.check(s.json(group.schema), case.data)
            t.equal(e == nil, case.valid, ("%s: %s: %s (%s)"):format(name, group.description, case.description, tostring(e)))
            n_checked = n_checked + 1
          end
          if not compiled then
            local reason
            for _, r in ipairs(REASONS) do reason = reason or message:find(r, 1, true) and r end
            refused[name] = (refused[name] or 0) + 1
            t.check(reason, ("%s: %s: %s"):format(name, group.description, message))
          end
        end
      end
      t.log(("%d schemas, %d values checked, refused: %s"):format(n_schemas, n_checked, t.show(refused)))
      t.check(n_checked > 820, n_checked .. " values checked")
    end)
  end

  t.test("messages name the place and what was expected", function()
    local schema = s.json { type = "object", required = { "a" }, properties = {
      a = { type = "array", items = { anyOf = { { type = "integer", minimum = 3 }, { type = "null" } } } } } }
    local function of(text) return tostring(select(2, s.check(schema, json.decode(text)))) end
    t.equal(of "{}", "a: is required")
    t.equal(of '{"a": [3, null, "x"]}', "a[2]: expected an integer, got a string; or: expected null, got a string")
    t.equal(of '{"a": [2]}', "a[0]: must be at least 3; got 2; or: expected null, got an integer")
    t.equal(of '{"a": 1}', "a: expected a list, got an integer")
  end)

  t.test("defaults of missing properties are filled in", function()
    local schema = s.json { properties = { b = { default = 1 }, a = { properties = { c = { default = "x" } } } },
      anyOf = { { required = { "z" } }, { properties = { d = { default = true } } } } }
    t.equal(json.encode(s.check(schema, json.decode '{"a": {}}')), '{"a":{"c":"x"},"b":1,"d":true}')
  end)

  t.test("lists written in Lua stay lists, and the schema keeps its own copy", function()
    local raw = { type = "object", required = {}, properties = {} }
    local schema = s.json(raw)
    raw.type = "array"
    t.equal(json.encode(s.json_schema(schema)), '{"properties":{},"required":[],"type":"object"}')
  end)

  t.test("patterns", function()
    local schema = s.json { pattern = "^\\u0061", patternProperties = { ["^n_"] = { type = "integer" } }, additionalProperties = false }
    t.equal(tostring(select(2, s.check(schema, "b"))), 'must match ^\\u0061; is "b"')
    t.equal(s.check(schema, "ab"), "ab")
    t.equal(tostring(select(2, s.check(schema, { n_a = "x" }))), "n_a: expected an integer, got a string")
    t.equal(tostring(select(2, s.check(schema, { n_a = 1, m = 1 }))), "m: is not a known key")
    t.check(select(2, compile { pattern = "(" }):find("JSON Schema, at /pattern: the regular expression", 1, true))
  end)

  t.test("schemas that are none", function()
    local function why(v) return select(2, compile(v)) end
    t.equal(why { type = "int" }, 'JSON Schema, at /type: "int" is no type')
    t.equal(why { properties = { a = { minLength = -1 } } }, "JSON Schema, at /properties/a/minLength: a count is expected, not -1")
    t.equal(why { items = 3 }, "JSON Schema, at /items: a schema is expected, not a number")
    t.equal(why { ["$ref"] = "#/$defs/x" }, 'JSON Schema, at /$ref: "#/$defs/x" names nothing')
    t.equal(why { ["$ref"] = "http://a/b" }, 'JSON Schema, at /$ref: "http://a/b" leads out of the schema; only \'#/...\' can be followed')
    t.equal(why { unevaluatedItems = false }, "JSON Schema, at /unevaluatedItems: this keyword is not supported")
    t.equal(why { required = "a" }, "JSON Schema, at /required: a list of names is expected")
    t.equal(why { anyOf = {} }, "JSON Schema, at /anyOf: a list of schemas is expected")
    t.equal(why "x", "JSON Schema, at its root: a schema is expected, not a string")
    local cycle = {}
    cycle.items = cycle
    t.equal(why(cycle), "JSON Schema, at its root: it is nested deeper than 100, or within itself")
  end)

  t.test("a schema that refers to itself without end ends", function()
    local schema = s.json { ["$ref"] = "#/$defs/a", ["$defs"] = { a = { ["$ref"] = "#/$defs/b" }, b = { ["$ref"] = "#/$defs/a" } } }
    t.equal(select(2, s.check(schema, 1)).message, "is nested too deep, or the schema refers to itself without end")
    local tree = s.json { type = "object", properties = { kids = { type = "array", items = { ["$ref"] = "#" } } } }
    local deep = ('{"kids":['):rep(60) .. "1" .. ("]}"):rep(60)
    t.equal(#select(2, s.check(tree, json.decode(deep))).path, 60 * #"kids[0]." - 1)
  end)
end
