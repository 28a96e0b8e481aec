qh_unit_test(lua/sandbox_test.c qh_lua)
qh_unit_test(lua/task_test.c qh_lua)
qh_unit_test(lua/module_test.c qh_lua)
qh_unit_test(lua/convert_test.c qh_lua)
qh_unit_test(lua/suite_test.c qh_lua)
qh_unit_test(lua/pattern_test.c qh_lua)
qh_unit_test(lua/types_test.c qh_lua)
target_compile_definitions(lua_types_test PRIVATE QH_SOURCE_DIR="${CMAKE_SOURCE_DIR}")

# The least host that serves an app: what tests/http/test_lua_*.py talk to.
add_executable(lua_host http/lua_host.c)
target_link_libraries(lua_host PRIVATE qh_lua qh_scripted)
qh_unit_test(lua/library_test.c qh_lua)
target_compile_definitions(lua_library_test PRIVATE QH_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
