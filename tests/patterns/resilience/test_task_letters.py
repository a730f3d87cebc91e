"""Letters of the policy that works without the agent are the same letters, and can be sent again."""

from __future__ import annotations

import json

from celery_patterns.resilience.replay import send
from patterns.resilience.stage import stage_on
from servers import RedisServer, eventually


def test_letter_of_a_worker_without_the_agent_is_kept_and_replayed(redis: RedisServer) -> None:
    with stage_on(redis, redis.url(0)) as stage, stage.worker(agent=False) as worker:
        sent = stage.send("fail_bare", "b1", amount=7)
        (letter,) = stage.wait_letters(1, what=worker.log)
        assert (letter.reason, letter.message.task_id, letter.queue) == ("failed", sent, stage.queue)
        assert (letter.error, letter.attempts) == ("ValueError: the amount 7 is wrong", 1)
        assert json.loads(letter.message.body)[:2] == [["b1"], {"amount": 7}]
        assert stage.ran("b1") == 1
        with stage.app.producer_pool.acquire() as producer:
            send(producer, letter)
        eventually(lambda: stage.ran("b1") == 2, what=worker.log)
