--- qhost.re: matches, replacements, pieces, and patterns that would run away.
return function(t)
  local re = t.library "qhost.re"

  t.test("a match has groups by number and by name", function()
    t.equal(re.match("on 2024-02-29", [[(?<year>\d+)-(?<month>\d+)(x)?]]),
      { [0] = "2024-02", "2024", "02", false, year = "2024", month = "02" })
    t.equal(re.match("abc", "x"), nil)
    t.equal(re.match("aXb", "x", "i", 2)[0], "X")
    t.equal(re.match("abc", "a", "", 9), nil)
    t.equal({ re.find("abbc", "b+") }, { 2, 3 })
    t.equal({ re.find("abc", "") }, { 1, 0 })
    t.equal({ re.test("é", [[^\w$]], "u"), re.test("é", [[^\w$]]) }, { true, false })
  end)

  t.test("all matches, empty ones too", function()
    local out = {}
    for m in re.gmatch("a1b22c", [[\d*]]) do out[#out + 1] = m[0] end
    t.equal(out, { "", "1", "", "22", "", "" })
    out = {}
    for m in re.gmatch("éa", "") do out[#out + 1] = m[0] end
    t.equal(#out, 3)
  end)

  t.test("replacements", function()
    t.equal({ re.gsub("John Smith", [[(?<first>\w+) (\w+)]], "$2, ${first} $0 $$1") }, { "Smith, John John Smith $1", 1 })
    t.equal({ re.gsub("a.b.c", "[.]", "-", "", 1) }, { "a-b.c", 1 })
    t.equal({ re.gsub("abc", "", "-") }, { "-a-b-c-", 4 })
    t.equal({ re.gsub("a1b2", [[\d]], function(m) return m[0] == "1" and "one" end) }, { "aoneb2", 2 })
    t.equal({ re.gsub("a b", [[(\w)]], { a = "x" }) }, { "x b", 2 })
    t.equal({ re.gsub("abc", "z", "-") }, { "abc", 0 })
    t.equal({ re.gsub("(x)?y", [[(z)?y]], "[$1]") }, { "(x)?[]", 1 })
    t.fails(function() re.gsub("a", "a", "$x") end, "is neither $1, ${name} nor $$")
    t.fails(function() re.gsub("a", "a", "$2") end, "there is no group '2'")
  end)

  t.test("pieces", function()
    t.equal(re.split("a, b,c", [[,\s*]]), { "a", "b", "c" })
    t.equal(re.split("a,b,c", ",", "", 2), { "a", "b,c" })
    t.equal(re.split("abc", ""), { "a", "b", "c" })
    t.equal(re.split(",a,", ","), { "", "a", "" })
    t.equal(re.split("", ","), { "" })
  end)

  t.test("escaped text matches itself", function()
    for _, text in ipairs { "a.b*c?", "[x](y){1}^$|\\", "é\n-#/ ", "\0" } do
      t.equal({ re.find(text, "^" .. re.escape(text) .. "$", "e") }, { 1, #text })
    end
  end)

  t.test("bad patterns, flags and arguments are errors that name them", function()
    t.fails(function() re.match("a", "a(") end, [[the regular expression "a(", at byte 3: missing closing parenthesis]])
    t.fails(function() re.match("a", "a", "q") end, "'q' is no flag")
    t.fails(function() re.match(nil, "a") end, "the text is a nil; a string is expected")
    t.fails(function() re.match("a", 5) end, "the pattern is a number")
  end)

  t.test("more patterns than are kept still work", function()
    for i = 1, 1000 do t.equal(re.test("x" .. i, "x" .. i .. "$"), true) end
  end)

  t.test("a pattern that backtracks without end is an error", function()
    local text = ("a"):rep(60) .. "!"
    t.fails(function() re.test(text, "(a+)+$") end, "backtracks too much")
    t.fails(function() re.test(("a"):rep(1 << 20), "(a|aa)+$(?<!a)") end, "the regular expression")
  end)
end
