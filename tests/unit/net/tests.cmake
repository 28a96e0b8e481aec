qh_unit_test(net/http1_test.c qh_net)
qh_unit_test(net/http_corpus_test.c qh_net)
qh_unit_test(net/http_text_test.c qh_net)
qh_unit_test(net/loop_test.c qh_net)

# The server alone, driven by tests/http/test_net_*.py.
add_executable(net_server http/net_server.c)
target_link_libraries(net_server PRIVATE qh_net)
