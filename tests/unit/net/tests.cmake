qh_unit_test(net/http1_test.c qh_net)
qh_unit_test(net/http_corpus_test.c qh_net)
qh_unit_test(net/http_text_test.c qh_net)
qh_unit_test(net/loop_test.c qh_net)
qh_unit_test(net/fetch_test.c qh_net)
qh_unit_test(net/egress_test.c qh_net)

# The server alone, driven by tests/http/test_net_*.py.
add_executable(net_server http/net_server.c)
target_link_libraries(net_server PRIVATE qh_net)

# The parser as a filter, compared with Python's h11 by tests/fuzz/test_http_h11.py.
add_executable(http_judge fuzz/http_judge.c)
target_link_libraries(http_judge PRIVATE qh_net)
