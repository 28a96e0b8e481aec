--- qhost.url: taking apart and putting together.
return function(t)
  local url = t.library "qhost.url"

  t.test("the parts of a URL", function()
    t.equal(url.parse "HTTPS://me:p%40ss@Example.COM:8443/a/b%20c?x=1&y=#top", { scheme = "https", user = "me", password = "p@ss",
      host = "example.com", port = 8443, path = "/a/b%20c", query = "x=1&y=", fragment = "top" })
    t.equal(url.parse "http://[2001:DB8::1]:80", { scheme = "http", host = "2001:db8::1", port = 80, path = "" })
    t.equal(url.parse "mailto:a@b.example", { scheme = "mailto", path = "a@b.example" })
    t.equal(url.parse "/a?b", { path = "/a", query = "b" })
    t.equal(url.parse "//h/p", { host = "h", path = "/p" })
    t.equal(url.parse "http://h:/?", { scheme = "http", host = "h", path = "/", query = "" })
    t.equal(url.parse "file:///etc/x", { scheme = "file", host = "", path = "/etc/x" })
    t.equal(url.parse "http://a@b@c/", { scheme = "http", user = "a@b", host = "c", path = "/" })
    t.equal(url.parse "", { path = "" })
  end)

  t.test("what is no URL", function()
    for _, text in ipairs { "http://a b/", "http://h:99999/", "http://h:8x/", "http://[::1/", "http://a[b]/", "http://h\n/", "http://a%2fb/" } do
      local v, message = url.parse(text)
      t.check(v == nil and message:find("is no URL", 1, true), text)
    end
  end)

  t.test("put together it is what it was", function()
    for _, text in ipairs { "https://me:p%40ss@example.com:8443/a/b%20c?x=1&y=#top", "http://[2001:db8::1]:80", "mailto:a@b.example",
      "/a?b", "//h/p", "file:///etc/x", "http://user@h/", "a/b#c" } do
      t.equal(url.build(url.parse(text)), text)
    end
    t.equal(url.build { scheme = "http", host = "h", path = "x y", query = { q = "a b", n = { 1, 2 }, t = true } }, "http://h/x%20y?n=1&n=2&q=a%20b&t=true")
  end)

  t.test("queries", function()
    t.equal(url.query { b = "ä&=", a = 1.5, list = { "x", "y" } }, "a=1.5&b=%C3%A4%26%3D&list=x&list=y")
    t.equal(url.decode_query(url.query { a = "1 + 1", ["b c"] = "%" }), { a = "1 + 1", ["b c"] = "%" })
    t.equal(url.decode_query "a=1&&a=2&b", { a = "2", b = "" })
    t.fails(function() url.query { f = print } end, "'f' is a function")
    t.fails(function() url.query { 1 } end, "names are strings")
  end)
end
