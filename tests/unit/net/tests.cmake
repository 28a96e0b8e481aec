qh_unit_test(net/http1_test.c qh_net)
qh_unit_test(net/http_corpus_test.c qh_net)
qh_unit_test(net/http_text_test.c qh_net)
qh_unit_test(net/loop_test.c qh_net)
