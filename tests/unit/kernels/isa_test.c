/* Instruction-set levels: names, and the best one. */
#include "test.h"
#include "kernels/cpu/isa.h"

TEST(auto_is_the_best_level_and_available)
{
    qh_err err = {0};
    qh_isa isa;
    CHECK_OK(qh_isa_parse(&isa, "auto", &err));
    CHECK(isa == qh_isa_best());
    CHECK(qh_isa_is_available(isa));
    CHECK(isa != QH_ISA_REF);
}

TEST(every_name_parses_to_its_level_or_says_that_it_is_missing)
{
    for (int i = 0; i < QH_N_ISA; i++) {
        qh_err err = {0};
        qh_isa isa;
        const qh_status st = qh_isa_parse(&isa, qh_isa_name((qh_isa)i), &err);
        if (qh_isa_is_available((qh_isa)i)) {
            CHECK_OK(st);
            CHECK_INT(isa, i);
        } else {
            CHECK_STATUS(st, QH_EUNSUPPORTED);
            CHECK(strstr(err.msg, qh_isa_name((qh_isa)i)) != NULL);
        }
    }
}

TEST(an_unknown_name_is_refused_with_the_list)
{
    qh_err err = {0};
    qh_isa isa;
    CHECK_STATUS(qh_isa_parse(&isa, "mmx", &err), QH_EINVAL);
    CHECK(strstr(err.msg, "mmx") && strstr(err.msg, "auto, ref, scalar, avx2"));
}

TEST(plain_levels_are_always_there)
{
    CHECK(qh_isa_is_available(QH_ISA_REF));
    CHECK(qh_isa_is_available(QH_ISA_SCALAR));
    CHECK(!qh_isa_is_available(QH_N_ISA));
}

TEST_MAIN()
