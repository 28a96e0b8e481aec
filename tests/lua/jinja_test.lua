--- The engine's own promises: origin of text, data, errors, and the sandbox it runs in.
local jinja = require "qhost.jinja"
local json = require "json"

local function compile(source, opts)
  return assert(jinja.compile(source, opts))
end

-- A rendering in one line: [special text](foreign text)...
local function marks(source, vars, opts)
  local template = compile(source)
  local segments, err = template:render(vars or {}, opts)
  if not segments then return "error: " .. err end
  local out = {}
  for i, s in ipairs(segments) do
    out[i] = (s.special and "[%s]" or "(%s)"):format(s.text)
  end
  return table.concat(out)
end

-- template, expected marks; `user` is foreign.
local ORIGIN = {
  { "<|im_start|>{{ user }}<|im_end|>", "[<|im_start|>](x <b> y)[<|im_end|>]" },
  { "{{ '<s>' + user + '</s>' }}", "[<s>](x <b> y)[</s>]" },
  { "{{ '<s>' ~ user ~ 1 ~ '</s>' }}", "[<s>](x <b> y)[1</s>]" },
  { "{% set a = '<s>' + user %}{{ a }}{{ a | length }}", "[<s>](x <b> y)[10]" },
  { "{{ ('<s>' + user)[1:5] }}", "[s>](x )" },
  { "{{ ('<s>' + user)[::-1] }}", "(y >b< x)[>s<]" },
  { "{{ ('<s>' + user)[0] }}{{ ('<s>' + user)[-1] }}", "[<](y)" },
  { "{{ ('<s>' + user) | upper }}", "[<S>](X <B> Y)" },
  { "{{ ('<s>' + user) | capitalize }}{{ user | title }}", "[<s>](x <b> yX <B> Y)" },
  { "{{ ('ab ' + user) | title }}", "[Ab ](X <B> Y)" },
  { "{{ (' ' + user + '  ') | trim }}", "(x <b> y)" },
  { "{{ ('<s>' + user) | replace('x', '<q>') }}", "[<s><q>]( <b> y)" },
  { "{{ '<s> %' | replace('%', user) }}", "[<s> ](x <b> y)" },
  { "{{ ('<s>' + user) | replace('', '-') }}", "[-<-s->-](x)[-]( )[-](<)[-](b)[-](>)[-]( )[-](y)[-]" },
  { "{{ ['<s>', user, 5] | join('<>') }}", "[<s><>](x <b> y)[<>5]" },
  { "{{ '|'.join([user, user]) }}", "(x <b> y)[|](x <b> y)" },
  { "{{ ('<s> ' + user).split() | join('+') }}", "[<s>+](x)[+](<b>)[+](y)" },
  { "{{ ('<s>,' + user).split(',')[1] }}", "(x <b> y)" },
  { "{{ ('a<' + user).partition('<') | join('|') }}", "[a|<|](x <b> y)" },
  { "{{ '<s>%s</s>' % user }}", "[<s>](x <b> y)[</s>]" },
  { "{{ '<s>%12s|' % user }}", "[<s>     ](x <b> y)[|]" },
  { "{{ '<s>%r' % user }}", "[<s>]('x <b> y')" },
  { "{{ user % () }}", "(x <b> y)" },
  { "{{ '<{}>'.format(user) }}{{ '{:>10}'.format(user) }}", "[<](x <b> y)[>   ](x <b> y)" },
  { "{{ user.format() }}", "(x <b> y)" },
  { "{{ '<s>' | center(7) }}{{ user | center(9) }}", "[  <s>   ](x <b> y)[ ]" },
  { "{{ ('<s>\n' + user) | indent(2) }}", "[<s>\n  ](x <b> y)" },
  { "{{ ('<s>' + user) | truncate(6, true, '..', 0) }}", "[<s>](x)[..]" },
  { "{{ ('<s>' + user) | list | join }}", "[<s>](x <b> y)" },
  { "{% for c in '<' + user %}{{ c }}{% endfor %}", "[<](x <b> y)" },
  { "{{ ('<' + user) | escape }}", "[&lt;](x &lt;b&gt; y)" },
  { "{{ '<s>' * 2 }}{{ user * 2 }}", "[<s><s>](x <b> yx <b> y)" },
  { "{{ ('<' + user + '>') * 2 }}", "[<](x <b> y)[><](x <b> y)[>]" },
  { "{{ '<s>' | tojson }}{{ user | tojson }}", "(\")[<s>](\"\"x <b> y\")" },
  { "{{ {'a': '<s>'} | tojson }}", "({\"a\": \"<s>\"})" },
  { "{{ ['<s>'] }}{{ ['<s>'] | string }}", "(['<s>']['<s>'])" },
  { "{% macro m(x) %}<m>{{ x }}</m>{% endmacro %}{{ m(user) }}", "[<m>](x <b> y)[</m>]" },
  { "{% macro m(x) %}<m>{{ x }}</m>{% endmacro %}{{ m(user) | upper }}", "[<M>](X <B> Y)[</M>]" },
  { "{% macro m() %}<m>{{ caller() }}</m>{% endmacro %}{% call m() %}<c>{{ user }}{% endcall %}", "[<m><c>](x <b> y)[</m>]" },
  { "{% set x %}<s>{{ user }}{% endset %}{{ x }}", "[<s>](x <b> y)" },
  { "{% filter upper %}<s>{{ user }}{% endfilter %}", "[<S>](X <B> Y)" },
  { "{% set ns = namespace(s='') %}{% for i in [1, 2] %}{% set ns.s = ns.s + '<' + user + '>' %}{% endfor %}{{ ns.s }}",
    "[<](x <b> y)[><](x <b> y)[>]" },
  { "{{ '<s>' if true else user }}{{ '<s>' if false else user }}", "[<s>](x <b> y)" },
  { "{{ user or '<s>' }}{{ missing or '<s>' }}{{ missing | default('<d>') }}", "(x <b> y)[<s><d>]" },
  { "{{ list[0] }}{{ list | first }}{{ list | join }}{{ dict.k }}{{ dict['k'] }}{{ dict.get('k') }}{{ dict.values() | first }}",
    "(<l><l><l><v><v><v><v>)" },
  { "{% for k, v in dict.items() %}{{ k }}{{ v }}{% endfor %}{% for k in dict %}{{ k }}{% endfor %}", "(k<v>k)" },
  { "{{ list | map('upper') | join }}{{ messages | map(attribute='content') | join('<>') }}", "(<L><c>)[<>](<d>)" },
  { "{{ 1 }}{{ 1.5 }}{{ true }}{{ none }}{{ user | length }}", "[11.5TrueNone7]" },
  { "{{ bos_token }}{{ eos_token + user }}{{ other_token }}", "[<bos><eos>](x <b> y<oth>)" },
  { "{{ user.strip('x') }}{{ user.lower() }}{{ user.splitlines()[0] }}", "( <b> yx <b> yx <b> y)" },
  { "{% for m in messages %}<|{{ m.role }}|>{{ m['role'] }}{{ m.content }}{% endfor %}", "[<|user|>user](<c>)[<|](<evil>)[|>](<evil><d>)" },
  { "{{ '<|' + messages[0]['role'] + '|>' }}{{ messages[0].role == 'user' }}{{ messages[0].role in ['user'] }}", "[<|user|>TrueTrue]" },
  { "{{ strftime_now('%Y') }}", "[2025]" },
  { "{{ user | int }}{{ user | string }}{{ user | safe }}", "[0](x <b> yx <b> y)" },
  { "", "" },
  { "{{ '' }}{{ empty }}", "" },
}

local function origin_vars()
  return {
    user = "x <b> y", empty = "", list = { "<l>" }, dict = { k = "<v>" }, bos_token = "<bos>",
    eos_token = "<eos>", other_token = "<oth>",
    messages = { { role = "user", content = "<c>" }, { role = "<evil>", content = "<d>" } },
  }
end

-- Every string in a decoded JSON value with a mark at both ends.
local function marked(v)
  if type(v) == "string" then return "\u{a4}" .. v .. "\u{a4}" end
  if type(v) ~= "table" or v == jinja.null then return v end
  local out = {}
  for k, item in pairs(v) do out[k] = marked(item) end
  return setmetatable(out, getmetatable(v))
end

-- template, part of the message, kind
local ERRORS = {
  { "a\nb\n{% nosuch %}", "template:3: unknown tag 'nosuch'", "syntax" },
  { "{{ 'abc }}", "template:1: the string has no closing '", "syntax" },
  { "\n{% if x %}\n", "the template ends where 'elif' or 'else' or 'endif' was expected", "syntax" },
  { "{% for x in y %}{% endif %}", "unknown tag 'endif'; the innermost open block needs 'else' or 'endfor'", "syntax" },
  { "\n\n{{ missing.x }}", "template:3: 'missing' is undefined", "undefined" },
  { "{% if true %}\n{{ user.a.b }}{% endif %}", "template:2: 'str object' has no attribute 'a'", "undefined" },
  { "\n{% set x = 1 + 'a' %}", "template:2: unsupported operand type(s) for +: 'int' and 'str'", "type" },
  { "{% macro m() %}\n{{ nope.x }}{% endmacro %}\n{{ m() }}", "template:2: 'nope' is undefined", "undefined" },
  { "{% macro m() %}\nx\n{% endmacro %}\n{{ m() + nope.x }}", "template:4: 'nope' is undefined", "undefined" },
  { "{% for x in [1] %}\n\n{% if x.y.z %}{% endif %}{% endfor %}", "template:3: 'int object' has no attribute 'y'", "undefined" },
  { "{{ raise_exception('Roles must alternate: 100%') }}", "template:1: Roles must alternate: 100%", "raise" },
  { "{{ [1].append(2) }}", "templates cannot change data", "security" },
  { "{{ 1 | nosuch }}", "No filter named 'nosuch'.", "syntax" },
  { "{% include 'x' %}", "the tag 'include' is not available in a chat template", "syntax" },
  { "{{ strftime_now('%Y') }}", "'strftime_now' is undefined", "undefined" },
}

return function(t)
  for _, case in ipairs(ORIGIN) do
    t.test("origin: " .. case[1], function()
      t.equal(marks(case[1], origin_vars(), { now = 1735819200 }), case[2])
    end)
  end

  t.test("no byte of a variable is ever the template's own", function()
    local folder = t.root .. "/tests/lua/data/"
    local vars = marked(assert(json.decode(t.read(folder .. "jinja_vars.json"))))
    local rendered = 0
    for line in t.read(folder .. "jinja_cases.jsonl"):gmatch "[^\n]+" do
      local source = assert(json.decode(line)).template
      local template = jinja.compile(source)
      local segments = template and template:render(vars, { now = 0 })
      for _, segment in ipairs(segments or {}) do
        rendered = rendered + 1
        t.check(not (segment.special and segment.text:find("\u{a4}", 1, true)), source)
      end
    end
    t.check(rendered > 300)
  end)

  t.test("segments alternate and none is empty", function()
    local vars = origin_vars()
    for _, case in ipairs(ORIGIN) do
      local before
      for _, segment in ipairs(compile(case[1]):render(vars, { now = 0 })) do
        t.check(segment.text ~= "" and segment.special ~= before, case[1])
        before = segment.special
      end
    end
  end)

  t.test("the host says which variables it vouches for", function()
    local template = compile "{{ bos_token }}{{ image }}"
    t.equal(template:render({ bos_token = "<s>", image = "<i>" }, { trusted = { "image" } }),
      { { text = "<s>", special = false }, { text = "<i>", special = true } })
  end)

  for _, case in ipairs(ERRORS) do
    t.test("error: " .. case[1], function()
      local template, err, kind = jinja.compile(case[1])
      local text
      if template then text, err, kind = template:render_text({ user = "x" }) end
      t.check(not text, "it rendered")
      t.check(err:find(case[2], 1, true), err)
      t.equal(kind, case[3])
    end)
  end

  t.test("messages carry the template's name", function()
    local _, err = jinja.compile("{{", { name = "qwen" })
    t.check(err:find("^qwen:1: "), err)
  end)

  t.test("limits can be set", function()
    local _, err, kind = jinja.compile("{{ 1 }}", { limits = { source = 3 } })
    t.equal({ err, kind }, { "template:1: the template has 7 bytes, more than 3", "limit" })
    local template = compile("{% for i in range(100) %}x{% endfor %}", { limits = { output = 99 } })
    local _, err2 = template:render {}
    t.equal(err2, "template:1: the output grows past 99 bytes")
    template = compile("{% for i in range(100) %}x{% endfor %}", { limits = { steps = 100 } })
    local _, err3 = template:render {}
    t.equal(err3, "template:1: the template takes too many steps (limit 100)")
  end)

  t.test("plain Lua tables are data: arrays by t[1], objects by sorted keys", function()
    local text = compile "{{ a }} {{ d }} {{ e | tojson }} {{ l | tojson }}":render_text {
      a = { 1, 2 }, d = { z = 1, a = { "x" }, m = false }, e = {}, l = jinja.new_list {},
    }
    t.equal(text, "[1, 2] {'a': ['x'], 'm': False, 'z': 1} {} []")
  end)

  t.test("the order of keys comes from the metatable, and survives changes", function()
    local d = setmetatable({ b = 1, a = 2, gone = nil, new = 3 }, { __jsontype = "object", __jsonorder = { "b", "gone", "a" } })
    t.equal(compile "{{ d | tojson }}":render_text { d = d }, '{"b": 1, "a": 2, "new": 3}')
    local made = jinja.new_dict()
    for _, k in ipairs { "z", "a", "m" } do jinja.dict_set(made, k, k) end
    t.equal(compile "{{ d | tojson }}":render_text { d = made }, '{"z": "z", "a": "a", "m": "m"}')
  end)

  t.test("null is the sentinel or any userdata", function()
    for _, null in ipairs { jinja.null, io.stdout } do
      local text = compile "{{ v is none }}{{ v }}{{ v | tojson }}{{ not v }}{{ d.x is none }}{{ v == none }}{{ l | tojson }}{{ v in l }}"
        :render_text { v = null, d = { x = null }, l = { null } }
      t.equal(text, "TrueNonenullTrueTrueTrue[null]True")
    end
  end)

  t.test("integers and floats stay apart", function()
    t.equal(compile "{{ a }} {{ b }} {{ a | tojson }} {{ b | tojson }} {{ a == b }}":render_text { a = 1, b = 1.0 },
      "1 1.0 1 1.0 True")
  end)

  t.test("rendering leaves the variables as they were", function()
    local vars = { list = { 3, 1, 2 }, bos_token = "<s>" }
    compile "{% set list = list + [4] %}{{ list | sort }}{{ bos_token }}":render(vars)
    t.equal(vars, { list = { 3, 1, 2 }, bos_token = "<s>" })
  end)

  t.test("one template renders many times, also after a failure", function()
    local template = compile "{% set ns = namespace(n=0) %}{% for i in l %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}"
    t.equal(template:render_text { l = { 1, 2 } }, "3")
    t.check(not template:render_text { l = { "x" } })
    t.equal(template:render_text { l = { 1, 2, 3 } }, "6")
    t.equal(template:render_text {}, "0")
  end)

  t.test("a value of a Lua type that templates have not is refused", function()
    local _, err = compile "{{ f }}":render_text { f = print }
    t.check(err:find("a value of Lua type function cannot be used in a template", 1, true), err)
  end)

  t.test("invalid UTF-8 does no harm", function()
    local bad = "a\xff\xc3(\xe2\x82"
    local source = "{{ b | upper }}{{ b | length }}{{ b[1:] }}{{ b | tojson }}{{ b | list | join }}{{ b | title }}"
      .. "{{ b | trim }}{{ b.split('(') }}{{ b[::-1] }}{{ b | center(20) }}{{ '%5s' % b }}{{ b is lower }}{{ b | truncate(3, true, '', 0) }}"
    t.check(compile(source):render_text { b = bad })
  end)

  t.test("the library runs where io, os, debug, load and package are missing, and sets no global", function()
    local env = {}
    for _, name in ipairs { "assert", "error", "getmetatable", "ipairs", "math", "next", "pairs", "pcall", "rawequal",
      "rawget", "rawset", "select", "setmetatable", "string", "table", "tonumber", "tostring", "type", "utf8" } do
      env[name] = _G[name]
    end
    local loaded = {}
    function env.require(name)
      if loaded[name] then return loaded[name] end
      local path = t.root .. "/lua/" .. name:gsub("%.", "/") .. ".lua"
      local sandbox = setmetatable({}, {
        __index = function(_, k) return env[k] or error("global '" .. k .. "' is read in " .. name, 2) end,
        __newindex = function(_, k) error("global '" .. k .. "' is set in " .. name, 2) end,
      })
      loaded[name] = assert(loadfile(path, "t", sandbox))()
      return loaded[name]
    end
    local fresh = env.require "qhost.jinja"
    local n = 0
    local folder = t.root .. "/tests/lua/data/"
    local vars = assert(json.decode(t.read(folder .. "jinja_vars.json")))
    for line in t.read(folder .. "jinja_cases.jsonl"):gmatch "[^\n]+" do
      local template = fresh.compile(assert(json.decode(line)).template)
      local _, err, kind = nil, nil, nil
      if template then _, err, kind = template:render_text(vars, { now = 0 }) end
      t.check(kind ~= "internal", err)
      n = n + 1
    end
    t.check(n > 300)
  end)

  t.test("it renders inside a coroutine", function()
    local co = coroutine.wrap(function()
      return compile "{% macro m(n) %}{{ n }}{% if n %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(40) }}":render_text {}
    end)
    t.check(co():find("^4039"))
  end)
end
