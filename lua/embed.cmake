# embed.cmake - write the Lua library as one C table: cmake -DOUT=... -DROOT=... -DFILES=a.lua;b.lua
# A file <dir>/<name>.lua below ROOT becomes module qhost.<dir>.<name>; the folder qhost/ itself is
# left out, and init stands for its folder: qhost/app.lua -> qhost.app, api/openai.lua -> qhost.api.openai.
set(body "")
set(table "")
set(i 0)
foreach(file IN LISTS FILES)
  file(READ ${ROOT}/${file} hex HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
  string(REGEX REPLACE "\\.lua$" "" module ${file})
  string(REGEX REPLACE "^qhost/" "" module ${module})
  string(REGEX REPLACE "(^|/)init$" "" module "${module}")
  string(REPLACE "/" "." module "qhost/${module}")
  string(REGEX REPLACE "\\.$" "" module ${module})
  string(APPEND body "static const unsigned char M${i}[] = {${bytes}0};\n")
  string(APPEND table "    {\"${module}\", \"${file}\", (const char *)M${i}, sizeof M${i} - 1},\n")
  math(EXPR i "${i} + 1")
endforeach()
file(WRITE ${OUT} "/* made by embed.cmake */\n#include \"lua/vm/module.h\"\n${body}\n"
  "const qh_lua_module qh_lua_modules[] = {\n${table}};\nconst int qh_n_lua_modules = ${i};\n")
