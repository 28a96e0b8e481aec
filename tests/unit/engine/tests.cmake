add_library(qh_test_fake STATIC unit/engine/fake_backend.c unit/engine/slow_model.c)
target_include_directories(qh_test_fake PUBLIC unit/engine)
target_link_libraries(qh_test_fake PUBLIC qh_engine)

qh_unit_test(engine/engine_test.c qh_test_fake)
qh_unit_test(engine/sim_test.c qh_test_fake)
qh_unit_test(engine/scripted_test.c qh_engine qh_scripted)
qh_unit_test(engine/kv_test.c qh_test_fake)
qh_unit_test(engine/stopper_test.c qh_engine)
qh_unit_test(engine/sampler_test.c qh_test_fake)
qh_unit_test(engine/sched_test.c qh_engine)
qh_unit_test(engine/step_test.c qh_test_fake)
qh_unit_test(engine/exact_test.c qh_engine qh_kernels qh_model)
set_tests_properties(engine/exact_test engine/sim_test PROPERTIES TIMEOUT 900)  # under sanitizers
