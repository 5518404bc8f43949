"""Student-teacher detector: its networks, losses, crops and training."""

from sklearn_exdd.detectors.student_teacher.detector import StudentTeacherDetector

__all__ = ["StudentTeacherDetector"]
