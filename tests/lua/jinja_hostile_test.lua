--- Templates that try to cost more than they may: each ends with an error of the kind named, within
--- 1 s of CPU and 64 MB. Memory is sampled every 1,000 VM instructions, from before the template is
--- compiled.
local jinja = require "qhost.jinja"

local MAX_SECONDS, MAX_KB = 1.0, 64 * 1024

local function repeated(s, n) return (s):rep(n) end

-- name, template, kind of the error (false: it may also succeed), variables
local CASES = {
  { "a range beyond the limit", "{% for i in range(10**9) %}{% endfor %}", "limit" },
  { "nested ranges", "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", "limit" },
  { "a long loop over a heavy body", "{% for a in range(100000) %}" .. repeated("{% set x = a * 2 + 1 %}", 300) .. "{% endfor %}", "limit" },
  { "a huge repeat", "{{ 'x' * 10**9 }}", "limit" },
  { "a huge repeat of a list", "{{ [0] * 10**9 }}", "limit" },
  { "a repeat that overflows", "{{ 'xy' * 2**62 }}", "limit" },
  { "strings doubled by a loop", "{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}", "limit" },
  { "strings doubled and read", "{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = ns.s ~ ns.s %}{% if ns.s == 'y' %}{% endif %}{% endfor %}", "limit" },
  { "foreign strings doubled", "{% set ns = namespace(s=word) %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}", "limit" },
  { "mixed strings doubled", "{% set ns = namespace(s=word ~ 'x') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}", "limit" },
  { "strings doubled by replace", "{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = ns.s | replace('x', 'xx') %}{% endfor %}", "limit" },
  { "strings doubled by join", "{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = [ns.s, ns.s] | join %}{% endfor %}", "limit" },
  { "strings doubled by format", "{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = '%s%s' % (ns.s, ns.s) %}{% endfor %}", "limit" },
  { "strings doubled by str.format", "{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = '{0}{0}'.format(ns.s) %}{% endfor %}", "limit" },
  { "lists doubled", "{% set ns = namespace(l=[1]) %}{% for i in range(100) %}{% set ns.l = ns.l + ns.l %}{% endfor %}", "limit" },
  { "nested lists doubled and printed", "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}", "limit" },
  { "nested lists doubled and written as JSON", "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l | tojson }}", "limit" },
  { "nested lists doubled and compared", "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}{{ ns.a == ns.b }}", "limit" },
  { "nested lists doubled and ordered", "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}{{ ns.a < ns.b }}", "limit" },
  { "lists nested deep and printed", "{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}", "limit" },
  { "lists nested deep and compared", "{% set ns = namespace(a=[], b=[]) %}{% for i in range(10000) %}{% set ns.a = [ns.a] %}{% set ns.b = [ns.b] %}{% endfor %}{{ ns.a == ns.b }}", "limit" },
  { "a macro that calls itself", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "limit" },
  { "two macros that call each other", "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}", "limit" },
  { "a macro that calls itself twice", "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}", "limit" },
  { "a macro that writes itself twice", "{% macro m(n) %}x{% if n %}{{ m(n - 1) * 2 }}{% endif %}{% endmacro %}{{ m(60) }}", "limit" },
  { "a recursive loop without end", "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "limit" },
  { "call blocks that nest themselves", "{% macro m() %}{% call m() %}{{ caller() }}{% endcall %}{% endmacro %}{{ m() }}", "limit" },
  { "a long output", "{% for i in range(100000) %}" .. repeated("x", 1000) .. "{% endfor %}", "limit" },
  { "much output in small pieces", "{% for i in range(100000) %}{% for j in range(100) %}x{% endfor %}{% endfor %}", "limit" },
  { "much output held by variables", "{% set ns = namespace() %}{% for i in range(100000) %}{% set x %}" .. repeated("x", 1000) .. "{% endset %}{% set ns.a = [ns.a, x] %}{% endfor %}", "limit" },
  { "a format with a huge width", "{{ '%1000000000d' % 1 }}", "limit" },
  { "a format with a huge precision", "{{ '%.1000000000f' % 1.0 }}", "value" },
  { "a format with a huge width by star", "{{ '%*d' % (10**15, 1) }}", "limit" },
  { "str.format with a huge width", "{{ '{:1000000000}'.format(1) }}", "limit" },
  { "str.format with a width beyond integers", "{{ '{:99999999999999999999}'.format('a') }}", "limit" },
  { "str.format that nests", "{{ '{:{:{:{}}}}'.format(1, 2, 3, 4) }}", "value" },
  { "center with a huge width", "{{ 'x' | center(10**12) }}", "limit" },
  { "ljust with a huge width", "{{ 'x'.ljust(10**12) }}", "limit" },
  { "zfill with a huge width", "{{ 'x'.zfill(10**12) }}", "limit" },
  { "expandtabs with a huge width", "{{ '\\t'.expandtabs(10**12) }}", "limit" },
  { "indent with a huge width", "{{ 'x\\ny' | indent(10**12) }}", "limit" },
  { "tojson with a huge indent", "{{ [1] | tojson(indent=10**12) }}", "value" },
  { "batch with a huge row", "{{ [1] | batch(10**12, 0) | list }}", "limit" },
  { "slice into a huge number", "{{ [1] | slice(10**12) | list }}", "limit" },
  { "a huge power", "{{ 10 ** 10 ** 10 }}", "value" },
  { "integers that overflow", "{{ 2**62 * 4 }}", "value" },
  { "searching for a long run in a longer one", "{% set a = 'a' * 4000000 %}{% set b = 'a' * 2000000 ~ 'b' %}{{ b in a }}", "limit" },
  { "counting in a long run", "{% set a = 'a' * 4000000 %}{% for i in range(100000) %}{{ a.count('aab') }}{% endfor %}", "limit" },
  { "replacing in a long run", "{% set a = 'a' * 2000000 %}{% for i in range(100000) %}{% set b = a.replace('a', 'b') %}{% endfor %}", "limit" },
  { "comparing long strings often", "{% set a = 'a' * 4000000 %}{% set b = 'a' * 4000000 %}{% for i in range(100000) %}{{ a == b }}{% endfor %}", "limit" },
  { "ordering long strings often", "{% set a = 'a' * 4000000 %}{% set b = 'a' * 4000000 %}{% for i in range(100000) %}{{ a < b }}{% endfor %}", "limit" },
  { "measuring a long string often", "{% set a = 'é' * 2000000 %}{% for i in range(100000) %}{{ a | length }}{% endfor %}", "limit" },
  { "indexing a long string often", "{% set a = 'é' * 2000000 %}{% for i in range(100000) %}{{ a[-1] }}{% endfor %}", "limit" },
  { "slicing a long string often", "{% set a = 'é' * 2000000 %}{% for i in range(100000) %}{% set b = a[1:] %}{% endfor %}", "limit" },
  { "stripping a long string often", "{% set a = ' ' * 4000000 %}{% for i in range(100000) %}{% set b = a.strip() %}{% endfor %}", "limit" },
  { "changing the case of a long string often", "{% set a = 'a' * 4000000 %}{% for i in range(100000) %}{% set b = a | upper %}{% endfor %}", "limit" },
  { "splitting a long string often", "{% set a = 'a ' * 1000000 %}{% for i in range(100000) %}{% set b = a.split() %}{% endfor %}", "limit" },
  { "splitting from the right with many cuts", "{% set a = 'a ' * 1000000 %}{% set b = a.rsplit(none, 900000) %}", "limit" },
  { "a list from a long string", "{{ ('a' * 8000000) | list | length }}", "limit" },
  { "a string reversed", "{{ ('a' * 8000000)[::-1] | length }}", "limit" },
  { "tests of a long string often", "{% set a = 'a' * 4000000 %}{% for i in range(1000) %}{{ a.isalpha() }}{{ a.istitle() }}{{ a is lower }}{% endfor %}", "limit" },
  { "titles of a long string often", "{% set a = 'a ' * 2000000 %}{% for i in range(1000) %}{% set x = a | title %}{% endfor %}", "limit" },
  { "words of a long string often", "{% set a = 'a ' * 2000000 %}{% for i in range(1000) %}{% set x = a | wordcount %}{% endfor %}", "limit" },
  { "tags stripped from openings only", "{% set a = '<' * 4000000 %}{{ a | striptags }}", false },
  { "comments stripped from openings only", "{% set a = '<!--' * 1000000 %}{{ a | striptags }}", false },
  { "urlencode of a long string", "{% set a = '&' * 4000000 %}{{ a | urlencode | length }}", "limit" },
  { "escape of a long string", "{% set a = '&' * 4000000 %}{{ a | escape | length }}", "limit" },
  { "sorting much", "{% for i in range(1000) %}{% set x = range(100000) | sort %}{% endfor %}", "limit" },
  { "sorting long strings", "{% set a = 'a' * 1000000 %}{% set l = [a ~ 1, a ~ 2, a ~ 3, a ~ 4] %}{% for i in range(10000) %}{% set x = l | sort %}{% endfor %}", "limit" },
  { "membership in a long list often", "{% set l = range(100000) | list %}{% for i in range(100000) %}{{ -1 in l }}{% endfor %}", "limit" },
  { "sums of a long list often", "{% set l = range(100000) | list %}{% for i in range(100000) %}{{ l | sum }}{% endfor %}", "limit" },
  { "maps of maps", "{% set l = range(100000) | list %}{% for i in range(1000) %}{% set x = l | map('string') | map('int') | list %}{% endfor %}", "limit" },
  { "joining many", "{% set l = range(100000) | list %}{% for i in range(1000) %}{% set x = l | join(',') %}{% endfor %}", "limit" },
  { "slices of a long list often", "{% set l = range(100000) | list %}{% for i in range(100000) %}{% set x = l[1:] %}{% endfor %}", "limit" },
  { "reading a dict's keys often", "{% for i in range(100000) %}{% for k in big %}{% endfor %}{% endfor %}", "limit", "big" },
  { "star arguments", "{% macro m() %}{{ varargs | length }}{% endmacro %}{% set l = range(100000) | list %}{% for i in range(1000) %}{{ m(*l) }}{% endfor %}", "limit" },
  { "a string of many pieces cut up often", "{% set ns = namespace(s='') %}{% for i in range(20000) %}{% set ns.s = ns.s ~ word ~ ',' %}{% endfor %}{% for i in range(1000) %}{% set x = ns.s.split(',') %}{% endfor %}", "limit" },
  { "a string grown and read in turn", "{% set ns = namespace(s='') %}{% for i in range(100000) %}{% set ns.s = ns.s ~ word ~ ',' %}{% if 'q' in ns.s %}{% endif %}{% endfor %}", "limit" },
  { "brackets nested deep", "{{ " .. repeated("(", 50000) .. "1" .. repeated(")", 50000) .. " }}", "limit" },
  { "lists nested deep in source", "{{ " .. repeated("[", 50000) .. repeated("]", 50000) .. " }}", "limit" },
  { "not nested deep", "{{ " .. repeated("not ", 20000) .. "1 }}", "limit" },
  { "minus nested deep", "{{ " .. repeated("- ", 50000) .. "1 }}", "limit" },
  { "a long chain of minus", "{{ 1" .. repeated(" - 1", 25000) .. " }}", "limit" },
  { "a long chain of times", "{{ 1" .. repeated(" * 1", 25000) .. " }}", "limit" },
  { "a long chain of attributes", "{{ a" .. repeated(".a", 50000) .. " }}", "limit" },
  { "a long chain of filters", "{{ a" .. repeated("|d", 50000) .. " }}", "limit" },
  { "a long chain of conditions", "{{ 1" .. repeated(" if 1 else 1", 10000) .. " }}", "limit" },
  { "ifs nested deep", repeated("{% if 1 %}", 6000) .. repeated("{% endif %}", 5000), "limit" },
  { "a long chain of plus", "{{ 1" .. repeated(" + 1", 25000) .. " }}", false },
  { "a long chain of and", "{{ 1" .. repeated(" and 1", 20000) .. " }}", false },
  { "a long chain of elif", "{% if 0 %}" .. repeated("{% elif 0 %}", 10000) .. "{% endif %}", false },
  { "many tags", repeated("{{a}}", 26000), false },
  { "many strings", "{{ " .. repeated("'a'", 43000) .. " }}", false },
  { "many variables", repeated("{%set a=1%}", 11000), false },
  { "blanks before a tag", repeated(" ", 130000) .. "{%- if 1 %}{% endif %}", false },
  { "blanks before text", repeated(" ", 130000) .. "x{% if 1 %}{% endif %}", false },
  { "unfinished raw tags", repeated("{% raw", 20000), "syntax" },
  { "a raw block without end", "{% raw %}" .. repeated("{% endraw", 14000), "syntax" },
  { "too large a source", repeated("x", 1024 * 1024), "limit" },
  { "cycles in the variables, printed", "{{ cycle }}", "limit" },
  { "cycles in the variables, as JSON", "{{ cycle | tojson }}", "limit" },
  { "cycles in the variables, compared", "{{ cycle == other }}", "limit" },
}

local function variables()
  local cycle, other, big = {}, {}, {}
  cycle.self, other.self = cycle, other
  for i = 1, 10000 do big["key" .. i] = i end
  return { word = "foreign", cycle = cycle, other = other, big = big }
end

return function(t)
  for _, case in ipairs(CASES) do
    local name, source, expected = case[1], case[2], case[3]
    t.test(name, function()
      local vars = variables()
      collectgarbage()
      local base, peak = collectgarbage "count", 0
      debug.sethook(function() peak = math.max(peak, collectgarbage "count" - base) end, "", 1000)
      local start = os.clock()
      local template, err, kind = jinja.compile(source)
      local text
      if template then text, err, kind = template:render_text(vars) end
      local seconds = os.clock() - start
      debug.sethook()
      peak = math.max(peak, collectgarbage "count" - base)
      if os.getenv "QH_VERBOSE" then
        io.write(("%-45s %6.3f s %7.1f MB  %s\n"):format(name, seconds, peak / 1024, text and #text or err:sub(1, 90)))
      end
      if expected then
        t.check(not text, "it rendered")
        t.equal(kind, expected, err)
      else
        t.check(text or kind == "limit", err)
      end
      t.check(seconds < MAX_SECONDS, ("took %.2f s"):format(seconds))
      t.check(peak < MAX_KB, ("took %.0f MB"):format(peak / 1024))
    end)
  end
end
