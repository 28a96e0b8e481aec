--- qhost.time against os.time and os.date, and against the examples of RFC 3339.
return function(t)
  local time = t.library "qhost.time"

  t.test("text and seconds, to and fro, over all years", function()
    for s = -62167219200, 253402300799, 86400 * 97 + 12345 do
      local text = time.iso(s)
      t.equal(time.parse(text), s)
      if s >= 0 then t.equal(text, os.date("!%Y-%m-%dT%H:%M:%SZ", s)) end
    end
  end)

  t.test("RFC 3339's examples", function()
    t.equal(time.parse "1985-04-12T23:20:50.52Z", 482196050.52)
    t.equal(time.parse "1996-12-19T16:39:57-08:00", time.parse "1996-12-20T00:39:57Z")
    t.equal(time.parse "1990-12-31T23:59:60Z", time.parse "1991-01-01T00:00:00Z")
    t.equal(time.parse "1937-01-01T12:00:27.87+00:20", time.parse "1937-01-01T11:40:27.87Z")
    t.equal(time.parse "2024-02-29", 1709164800)
    t.equal(time.parse "2024-02-29 00:00:00z", 1709164800)
  end)

  t.test("what is no time is told why", function()
    for text, why in pairs {
      ["2023-02-29"] = "there is no such day", ["1900-02-29"] = "no such day", ["2024-13-01"] = "no such day",
      ["2024-02-29T24:00:00Z"] = "no such time of day", ["2024-02-29T10:00:00"] = "ends with Z or an offset",
      ["2024-02-29T10:00Z"] = "hours:minutes:seconds", ["yesterday"] = "begins with year-month-day",
      ["2024-02-29T10:00:00.Z"] = "hours:minutes:seconds", ["2024-02-29T10:00:00+25:00"] = "offset", [""] = "begins",
      ["2024-02-29T10:00:00Z "] = "ends with Z",
    } do
      local v, message = time.parse(text)
      t.check(v == nil and message:find(why, 1, true), text .. ": " .. tostring(message))
    end
  end)

  t.test("fractions are cut", function()
    t.equal(time.iso(0.999, 2), "1970-01-01T00:00:00.99Z")
    t.equal(time.iso(1700000000.123, 3), "2023-11-14T22:13:20.123Z")
    t.equal(time.iso(-0.5, 1), "1969-12-31T23:59:59.5Z")
    t.fails(function() time.iso(1e15) end, "a time from the year 0 to 9999")
    t.fails(function() time.iso(0 / 0) end, "a time from the year 0 to 9999")
  end)

  t.test("now", function()
    t.check(math.abs(time.now() - os.time()) < 3)
    t.check(math.abs(time.parse(time.iso(nil, 6)) - time.now()) < 3)
    local a = time.monotonic()
    t.check(time.monotonic() >= a)
    t.equal(time.format("%Y/%j", 86400 * 31), "1970/032")
  end)
end
