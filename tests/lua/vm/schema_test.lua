--- qhost.schema: what fits, what does not and where, defaults, and the JSON Schema that models see.
return function(t)
  local s, json = t.library "qhost.schema", t.library("qhost.core").json
  local function check(schema, text)
    local value, e = s.check(schema, json.decode(text))
    if e then return tostring(e), e.code end
    return json.encode(value)
  end
  local function schema_text(schema) return json.encode(s.json_schema(schema)) end

  t.test("texts, numbers and booleans", function()
    t.equal(check(s.string(), '"é"'), '"é"')
    t.equal(check(s.string(), "1"), "expected a string, got a number")
    t.equal(check(s.string { min = 2 }, '"é"'), "must have at least 2 characters, has 1")
    t.equal(check(s.string { max = 1 }, '"éa"'), "must have at most 1 characters, has 2")
    t.equal(check(s.string { pattern = "^[a-z]+$" }, '"ab"'), '"ab"')
    t.equal(check(s.string { pattern = "^[a-z]+$" }, '"ab1"'), 'must match ^[a-z]+$, is "ab1"')
    t.equal(schema_text(s.string { min = 1, pattern = "x" }), '{"type":"string","minLength":1,"pattern":"x"}')
    t.fails(function() s.string { pattern = "(" } end, "missing closing parenthesis")
    t.equal(check(s.int(), "3.0"), "3")
    t.equal(check(s.int(), "3.5"), "expected an integer, got 3.5")
    t.equal(check(s.int(), "1e300"), "1e+300 is larger than an integer can be")
    t.equal(check(s.int { min = 1, max = 3 }, "4"), "must be at most 3, is 4")
    t.equal(check(s.number { min = 0.5 }, "0.25"), "must be at least 0.5, is 0.25")
    t.equal(check(s.number(), "2"), "2")
    t.equal(check(s.boolean(), "false"), "false")
    t.equal(check(s.boolean(), "null"), "expected true or false, got null")
    t.equal(check(s.enum { "c", "f" }, '"k"'), 'must be one of "c", "f"; is "k"')
    t.equal(check(s.enum { 1, true }, "true"), "true")
  end)

  t.test("formats", function()
    for format, cases in pairs {
      date = { "2024-02-29", "2024-2-9" }, uuid = { "0190163d-8694-739b-aea5-966c26f8ad91", "0190163d8694739baea5966c26f8ad91" },
      ["date-time"] = { "2024-02-29T10:00:00.5+02:00", "2024-02-29" }, email = { "a@b.example", "a@" },
      uri = { "urn:isbn:1", "/a b" }, time = { "10:00:00Z", "10:00" },
    } do
      t.equal((s.check(s.string { format = format }, cases[1])), cases[1])
      local _, e = s.check(s.string { format = format }, cases[2])
      t.check(e and e.message:find("is no " .. format, 1, true), format)
    end
  end)

  t.test("a path leads to what does not fit", function()
    local schema = s.object { { "a", s.list(s.object { { "b c", s.map(s.list(s.int())) } }) } }
    t.equal(check(schema, '{"a": [{"b c": {}}, {"b c": {"x": [1, "2"]}}]}'), 'a[1]["b c"].x[1]: expected an integer, got a string')
    t.equal(check(schema, '{"a": [{}]}'), 'a[0]["b c"]: is required')
    t.equal(check(schema, "[]"), "expected an object, got a list")
    t.equal(check(s.list(s.int(), { max = 1 }), "[1, 2]"), "must have at most 1 items, has 2")
    t.equal(check(s.list(s.any()), '{"a": 1}'), "expected a list, got an object")
  end)

  t.test("defaults are filled in, and the value given is left as it was", function()
    local schema = s.object {
      { "n", s.int { default = 3 } }, { "tags", s.list(s.string()), default = {} }, { "note", s.string(), optional = true },
      { "in", s.object { { "deep", s.boolean { default = true } } } },
    }
    local given = json.decode '{"z": 1, "in": {}, "note": null}'
    local value = s.check(schema, given)
    t.equal(json.encode(given), '{"z":1,"in":{},"note":null}')
    t.equal(value.n, 3)
    t.equal(value["in"].deep, true)
    t.equal(value.note, nil)
    t.equal(json.encode(value), '{"z":1,"in":{"deep":true},"n":3,"tags":{}}')
    value.tags[1] = "mine"
    t.equal(s.check(schema, given).tags, {})
    local whole = json.decode '{"n": 1, "tags": [], "in": {"deep": false}}'
    t.check(s.check(schema, whole) == whole, "nothing was added, so it is the same table")
  end)

  t.test("keys that are not listed are kept, dropped, refused or checked", function()
    local function of(extra) return s.object { { "a", s.int() }, extra = extra } end
    t.equal(check(of(nil), '{"a": 1, "b": 2}'), '{"a":1,"b":2}')
    t.equal(check(of "drop", '{"a": 1, "b": 2}'), '{"a":1}')
    t.equal({ check(of "refuse", '{"a": 1, "b": 2}') }, { "b: is not a known key", "unknown" })
    t.equal(check(of(s.string()), '{"a": 1, "b": 2}'), "b: expected a string, got a number")
  end)

  t.test("unions take the first that fits and tell of the nearest that does not", function()
    local schema = s.union { s.string(), s.object { { "x", s.int() } } }
    t.equal(check(schema, '{"x": 1.0}'), '{"x":1}')
    t.equal(check(schema, '{"x": "1"}'), "x: expected an integer, got a string")
    t.equal(check(schema, "1"), "expected a string, got a number; or: expected an object, got a number")
  end)

  t.test("optional values", function()
    local schema = s.object { { "a", s.optional(s.int()) }, { "l", s.list(s.optional(s.int())), optional = true } }
    t.equal(check(schema, '{"l": [1, null]}'), '{"l":[1,null]}')
    t.equal(check(schema, '{"a": "x"}'), "a: expected an integer, got a string")
    t.equal({ s.check(s.optional(s.int()), nil) }, {})
    t.equal(select(2, s.check(s.int(), nil)).code, "missing")
    t.equal(s.check(s.int { default = 4 }, nil), 4)
  end)

  t.test("conversations", function()
    local m = s.object { { "messages", s.messages { max = 3 } } }
    local function of(list) return check(m, '{"messages": ' .. list .. "}") end
    local good = '{"messages":[{"role":"user","content":"hi"}]}'
    t.equal(check(m, good), good)
    t.equal(of '[{"role": "user", "content": [{"type": "text", "text": "a"}]}]',
      '{"messages":[{"role":"user","content":[{"type":"text","text":"a"}]}]}')
    t.equal(of "[]", "messages: must have at least 1 items, has 0")
    t.equal(of '[{"role": "robot", "content": ""}]',
      'messages[0].role: must be one of "system", "developer", "user", "assistant", "tool"; is "robot"')
    t.equal(of '[{"role": "user"}]', "messages[0].content: is required")
    t.equal(of '[{"role": "assistant", "content": null}]', "messages[0].content: is required without tool_calls")
    t.equal(of '[{"role": "user", "content": "a"}, {"role": "tool", "content": "x"}]',
      "messages[1].tool_call_id: is required in the message of a tool")
    t.equal(of '[{"role": "user", "content": [{"text": "x"}]}]', "messages[0].content[0].type: is required")
    t.equal(of '[{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {}}}]}]',
      "messages[0].tool_calls[0].function.arguments: expected a string, got an object")
    t.equal(check(s.union { s.messages(), s.string() }, "1"), "expected a list, got a number; or: expected a string, got a number")
  end)

  t.test("the JSON Schema has the script's order, every time", function()
    local function make()
      return s.object {
        { "city", s.string "City name" }, { "unit", s.enum { "c", "f", default = "c" } },
        { "days", s.int { "How many", min = 1, max = 9 }, optional = true },
        { "tags", s.list(s.string { max = 9 }, { max = 3 }), default = {} },
        { "at", s.union { s.number(), s.map(s.boolean()) } }, extra = "refuse", description = "Weather",
      }
    end
    local text = '{"description":"Weather","type":"object","properties":{"city":{"description":"City name","type":"string"},'
      .. '"unit":{"type":"string","enum":["c","f"],"default":"c"},"days":{"description":"How many","type":"integer",'
      .. '"minimum":1,"maximum":9},"tags":{"type":"array","items":{"type":"string","maxLength":9},"maxItems":3,"default":{}},'
      .. '"at":{"anyOf":[{"type":"number"},{"type":"object","additionalProperties":{"type":"boolean"}}]}},'
      .. '"required":["city","at"],"additionalProperties":false}'
    for _ = 1, 5 do t.equal(schema_text(make()), text) end
    t.equal(schema_text(s.object {}), '{"type":"object","properties":{}}')
    t.equal(schema_text(s.list(s.optional(s.int()))), '{"type":"array","items":{"anyOf":[{"type":"integer"},{"type":"null"}]}}')
    t.check(schema_text(s.messages()):find('^{"type":"array","items":{"type":"object","properties":{"role":'), schema_text(s.messages()))
  end)

  t.test("what a schema says is checked by its JSON Schema too", function()
    local schema = s.object {
      { "a", s.string { min = 2 } }, { "b", s.list(s.int { min = 0 }), optional = true },
      { "c", s.union { s.boolean(), s.enum { 1, 2 } } }, { "m", s.messages(), optional = true }, extra = "refuse" }
    local raw = s.json(s.json_schema(schema))
    for _, text in ipairs { '{"a": "xy", "c": true}', '{"a": "x", "c": true}', '{"a": "xy", "c": 2, "b": [1, -1]}', '{"a": "xy"}',
      '{"a": "xy", "c": 3}', '{"a": "xy", "c": 1, "d": 1}', '{"a": "xy", "c": 1, "m": [{"role": "user", "content": "x"}]}',
      '{"a": "xy", "c": 1, "m": [{"role": "nobody"}]}', '{"a": "xy", "c": 1, "m": []}', '[]' } do
      local value = json.decode(text)
      local _, mine = s.check(schema, value)
      local _, theirs = s.check(raw, value)
      t.equal(theirs == nil, mine == nil, text)
    end
  end)

  t.test("mistakes of the script are errors where the schema is made", function()
    t.fails(function() s.string { maximum = 3 } end, "qh.schema.string has no option 'maximum'; default, description, format, max, min, pattern are known")
    t.fails(function() s.string { format = "zip" } end, "format 'zip' is not known")
    t.fails(function() s.int { min = 3, max = 1 } end, "min 3 is above max 1")
    t.fails(function() s.int { default = "x" } end, "the default does not fit: expected an integer, got a string")
    t.fails(function() s.int { min = "1" } end, "min must be a number")
    t.fails(function() s.object { { "a", "string" } } end, 'entry 1 must be { "key", schema }')
    t.fails(function() s.object { a = s.int() } end, "qh.schema.object has no option 'a'")
    t.fails(function() s.object { { "a", s.int() }, { "a", s.int() } } end, "the key 'a' is there twice")
    t.fails(function() s.object { { "a", s.int(), default = "x" } } end, "the default of 'a' does not fit")
    t.fails(function() s.object { { "a", s.int(), deflt = 1 } } end, "field 'a' has no option 'deflt'")
    t.fails(function() s.object { extra = "no" } end, "extra must be")
    t.fails(function() s.list("string") end, "the item must be a schema, not a string")
    t.fails(function() s.list(s.int(), { min = 1, mx = 2 }) end, "has no option 'mx'")
    t.fails(function() s.enum {} end, "takes a list of values")
    t.fails(function() s.check({}, 1) end, "must be a schema, not an object")
  end)

  t.test("tables become schemas, other things a message", function()
    t.equal(s.is(s.of { type = "integer" }), true)
    t.equal({ s.of(3) }, { nil, "a schema is expected, not a number" })
    t.equal({ s.of { type = "int" } }, { nil, 'JSON Schema, at /type: "int" is no type' })
    local node = s.int()
    t.check(s.of(node) == node)
  end)

  t.test("a value that goes deeper than any schema needs to is refused", function()
    local deep = ("["):rep(150) .. ("]"):rep(150)
    t.equal(check(s.any(), deep), (deep:gsub("%s", "")))
    local node = s.any()
    for _ = 1, 250 do node = s.list(node) end
    t.equal(select(2, s.check(node, json.decode(deep))), nil)
    local cycle = {}
    cycle[1] = cycle
    t.equal(select(2, s.check(node, cycle)).message, "is nested deeper than 200")
  end)
end
