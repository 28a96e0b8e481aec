qh_unit_test(lua/sandbox_test.c qh_lua)
qh_unit_test(lua/task_test.c qh_lua)
qh_unit_test(lua/module_test.c qh_lua)
qh_unit_test(lua/convert_test.c qh_lua)
