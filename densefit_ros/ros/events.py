"""Publishers and subscribers that cannot hear one another, said in plain words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def subscription_events(topic: str, report: Callable[[str], None]) -> Any:
    """Event callbacks for a subscription of ours: ``report`` hears of publishers whose QoS does not match."""

    def incompatible(event: Any) -> None:
        report(f"a publisher of {topic} offers QoS that does not match ours ({_policy(event)}): see ros.image_reliability")

    return _module().SubscriptionEventCallbacks(incompatible_qos=incompatible)


def publisher_events(topic: str, report: Callable[[str], None]) -> Any:
    """Event callbacks for a publisher of ours: ``report`` hears of subscribers that ask for more than we offer."""

    def incompatible(event: Any) -> None:
        report(f"a subscriber of {topic} asks for QoS that we do not offer ({_policy(event)}): see ros.output_reliability")

    return _module().PublisherEventCallbacks(incompatible_qos=incompatible)


def _policy(event: Any) -> str:
    return str(getattr(event.last_policy_kind, "name", event.last_policy_kind))


def _module() -> Any:
    try:
        from rclpy import event_handler
    except ImportError:  # Humble
        from rclpy import qos_event as event_handler
    return event_handler
