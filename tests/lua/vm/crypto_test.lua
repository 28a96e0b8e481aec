--- qhost.crypto against the vectors of its standards.
return function(t)
  local crypto = t.library "qhost.crypto"

  t.test("sha256: the examples of FIPS 180", function()
    t.equal(crypto.sha256 "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    t.equal(crypto.sha256 "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    t.equal(crypto.sha256(("a"):rep(1000000)), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0")
    t.equal(crypto.sha256("", "base64"), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=")
    t.equal(#crypto.sha256("x", "raw"), 32)
    t.fails(function() crypto.sha256("x", "octal") end, "'octal' is no form")
  end)

  t.test("hmac_sha256: RFC 4231", function()
    t.equal(crypto.hmac_sha256(("\x0b"):rep(20), "Hi There"), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7")
    t.equal(crypto.hmac_sha256("Jefe", "what do ya want for nothing?"), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
    t.equal(crypto.hmac_sha256(("\xaa"):rep(131), "Test Using Larger Than Block-Size Key - Hash Key First"),
      "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54")
    t.equal(crypto.hmac_sha256("", ""), "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad")
  end)

  t.test("base64 and hex: RFC 4648", function()
    local vectors = { [""] = "", f = "Zg==", fo = "Zm8=", foo = "Zm9v", foob = "Zm9vYg==", fooba = "Zm9vYmE=", foobar = "Zm9vYmFy" }
    for plain, coded in pairs(vectors) do
      t.equal(crypto.base64.encode(plain), coded)
      t.equal(crypto.base64.decode(coded), plain)
      t.equal(crypto.base64.decode((coded:gsub("=", ""))), plain)
      t.equal(crypto.base64url.encode(plain), (coded:gsub("=", "")))
      t.equal(crypto.base64url.decode(coded), plain)
    end
    t.equal(crypto.base64.encode "\xfb\xff\xfe", "+//+")
    t.equal(crypto.base64url.encode "\xfb\xff\xfe", "-__-")
    t.equal(crypto.hex.encode "\0\xffZ", "00ff5a")
    t.equal(crypto.hex.decode "00FF5a", "\0\xffZ")
    for n = 0, 300 do
      local bytes = crypto.random_bytes(n)
      for _, how in ipairs { "base64", "base64url", "hex" } do t.equal(crypto[how].decode(crypto[how].encode(bytes)), bytes) end
    end
  end)

  t.test("what is not of an encoding is refused with its place", function()
    t.equal({ crypto.base64.decode "Zm9v Zg==" }, { nil, "base64: 9 characters cannot be whole bytes" })
    t.equal({ crypto.base64.decode "Zm9v!A==" }, { nil, "base64: byte 5 is not of its alphabet" })
    t.equal({ crypto.base64.decode "Zm9vA" }, { nil, "base64: 5 characters cannot be whole bytes" })
    t.equal({ crypto.base64.decode "Zh==" }, { nil, "base64: the last character has bits of no byte" })
    t.equal({ crypto.base64.decode "Z===" }, { nil, "base64: byte 2 is not of its alphabet" })
    t.equal({ crypto.base64url.decode "+//+" }, { nil, "base64: byte 1 is not of its alphabet" })
    t.equal({ crypto.hex.decode "0" }, { nil, "hexadecimal: 1 digits, an odd number" })
    t.equal({ crypto.hex.decode "0g" }, { nil, "hexadecimal: byte 2 is no digit" })
  end)

  t.test("UUIDs have their version and variant, differ, and those with the time are in order", function()
    local seen, last = {}, ""
    for _ = 1, 5000 do
      local four, seven = crypto.uuid(), crypto.uuid7()
      t.check(four:find "^%x%x%x%x%x%x%x%x%-%x%x%x%x%-4%x%x%x%-[89ab]%x%x%x%-%x%x%x%x%x%x%x%x%x%x%x%x$", four)
      t.check(seven:find "^%x%x%x%x%x%x%x%x%-%x%x%x%x%-7%x%x%x%-[89ab]%x%x%x%-%x%x%x%x%x%x%x%x%x%x%x%x$", seven)
      t.check(not seen[four] and not seen[seven])
      t.check(last < seven, last .. " then " .. seven)
      seen[four], seen[seven], last = true, true, seven
    end
    local ms = tonumber(last:sub(1, 8) .. last:sub(10, 13), 16)
    t.check(math.abs(ms / 1000 - os.time()) < 60, last)
  end)

  t.test("secrets", function()
    t.equal({ crypto.equal("a", "a"), crypto.equal("a", "b"), crypto.equal("a", "ab"), crypto.equal("", "") }, { true, false, false, true })
    t.check(crypto.random_bytes(16) ~= crypto.random_bytes(16))
    t.equal(#crypto.random_bytes(16, "hex"), 32)
    t.fails(function() crypto.random_bytes(-1) end, "a number of bytes up to 1 MiB is expected")
    t.fails(function() crypto.base64.encode(("x"):rep((8 << 20) + 1)) end, "too many to encode or decode at once")
  end)
end
