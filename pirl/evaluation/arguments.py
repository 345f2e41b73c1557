"""The command line of `pirl eval`."""

from __future__ import annotations

from pirl.config.command_line import Parser, at_least, word_of

SEED = 1000
SPLITS = ("heldout", "train", "all")


def eval_parser() -> Parser:
    """`pirl eval`; the names that `lerobot-eval` has for the same thing are taken too."""
    parser = Parser(
        "eval",
        "Evaluate a saved policy on fixed episodes; counts with Wilson intervals, from records.",
        example="pirl eval --policy_path RUN/checkpoints/last/pretrained_model --episodes-per-task 10",
        codes="0 done, 1 --verify found a difference or the simulator failed, 2 usage,"
        " 3 environment not ready, 4 interrupted, 5 --compare met different episodes",
        takes_fields=True,
    )
    add, count = parser.add_argument, at_least(0)
    add("--policy_path", "--policy.path", metavar="PATH", help="pretrained_model folder or hub id")
    add(
        "--config_path",
        metavar="FILE",
        help="environment and split (default: train_config.json beside the weights)",
    )
    add("--suites", metavar="S", help="LIBERO suites, comma-separated, in place of env.task")
    add("--episodes-per-task", "--eval.n_episodes", type=count, default=10, metavar="N")
    add("--seed", type=count, default=SEED, metavar="N", help="start noise and simulator seeds")
    add(
        "--split",
        default="heldout",
        type=word_of(SPLITS),
        choices=SPLITS,
        help="initial states (default: heldout; all is peer-comparable and overlaps training)",
    )
    add(
        "--out",
        "--output_dir",
        metavar="DIR",
        help="result folder, new or empty (default: outputs/eval/DATE/TIME)",
    )
    add("--videos", type=count, default=0, metavar="N", help="videos per task, plus one failure")
    add(
        "--num-envs",
        "--eval.batch_size",
        type=count,
        metavar="N",
        help="simulators side by side; changes no result",
    )
    add("--num-workers", type=count, metavar="N", help="their processes; changes no result")
    add("--device", "--policy.device", metavar="D", help="default: runtime.actor_device")
    add("--json", action="store_true", help="the answer as JSON on stdout")
    add("--verify", metavar="FOLDER", help="compute every figure of a result folder again")
    add("--compare", nargs=2, metavar=("A", "B"), help="exact paired test of two result folders")
    return parser
